"""Which backups are kept: the last ones, and those that they add to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lookalike.jobs.backup.retention import superseded


def test_the_last_ones_and_what_they_add_to_are_kept() -> None:
    # Full backups 1 and 4; the others add to the one before.
    bases = {1: None, 2: 1, 3: 2, 4: None, 5: 4, 6: 5}
    assert superseded(bases, 1) == [3, 2, 1]
    assert superseded(bases, 3) == [3, 2, 1]
    assert superseded(bases, 4) == []
    assert superseded(bases, 99) == []


def test_a_backup_whose_base_is_gone_is_kept_and_harms_nothing() -> None:
    assert superseded({2: 1, 3: 2}, 1) == []
    assert superseded({2: 1, 5: None}, 1) == [2]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 40))
def test_every_kept_backup_has_all_that_it_needs(fulls: list[bool], keep: int) -> None:
    bases = {n: None if is_full or n == 1 else n - 1 for n, is_full in enumerate(fulls, 1)}
    removed = superseded(bases, keep)
    assert removed == sorted(removed, reverse=True)
    kept = bases.keys() - set(removed)
    assert kept >= set(sorted(bases)[-keep:])
    assert all(bases[number] in kept | {None} for number in kept)
    # Nothing more is kept: every kept backup is one of the last, or the base of a kept one.
    assert all(number in sorted(bases)[-keep:] or number in {bases[one] for one in kept} for number in kept)
