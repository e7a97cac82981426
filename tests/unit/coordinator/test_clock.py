"""The hybrid logical clock."""

from __future__ import annotations

from coordinator.clock import Clock, node_of


def test_versions_increase_even_if_the_wall_clock_steps_back() -> None:
    wall = iter([1_000, 1_000, 900, 2_000])
    clock = Clock(lambda: next(wall))
    versions = [clock.next() for _ in range(4)]
    assert versions == sorted(set(versions))
    assert [version >> 21 for version in versions] == [1_000, 1_000, 1_000, 2_000]


def test_next_version_exceeds_an_observed_one() -> None:
    clock = Clock(lambda: 1_000, node=7)
    other = Clock(lambda: 5_000, node=9).next()
    clock.observe(other)
    version = clock.next()
    assert version > other
    clock.observe(3)
    assert clock.next() > version


def test_clocks_issue_distinct_versions_and_recognize_their_own() -> None:
    a, b = Clock(lambda: 1_000, node=1), Clock(lambda: 1_000, node=2)
    versions_a, versions_b = {a.next() for _ in range(2_000)}, {b.next() for _ in range(2_000)}
    assert not versions_a & versions_b
    assert all(map(a.issued, versions_a))
    assert not any(map(a.issued, versions_b))


def test_processes_that_share_a_port_have_different_clocks() -> None:
    for _ in range(50):
        numbers = [node_of(process, 64) for process in range(64)]
        both = {number + sibling for number in numbers for sibling in (0, 1)}
        assert len(both) == 128
        assert min(both) > 0
        assert max(both) < 1 << 12


def test_versions_fit_into_63_bits_until_2100() -> None:
    year_2100_ms = 4_102_444_800_000
    assert Clock(lambda: year_2100_ms).next() < 2**63
