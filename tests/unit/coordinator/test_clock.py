"""The hybrid logical clock."""

from __future__ import annotations

from coordinator.clock import Clock


def test_versions_rise_though_the_wall_clock_stands_or_steps_back() -> None:
    wall = iter([1_000, 1_000, 900, 2_000])
    clock = Clock(lambda: next(wall))
    versions = [clock.next() for _ in range(4)]
    assert versions == sorted(set(versions))
    assert versions[0] == 1_000 << 16
    assert versions[3] == 2_000 << 16


def test_an_observed_version_is_overtaken() -> None:
    clock = Clock(lambda: 1_000)
    clock.observe(5_000 << 16)
    assert clock.next() == (5_000 << 16) + 1
    clock.observe(3)
    assert clock.next() == (5_000 << 16) + 2
