"""The lines that show the progress of work in phases off a terminal."""

from __future__ import annotations

import pytest

from encoder.progress import PhaseBar, PhaseLines, duration


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_the_start_of_each_phase_each_tenth_and_each_ten_seconds() -> None:
    clock = Clock()
    lines = PhaseLines(clock)
    assert lines.line("encoding", 0, 1_000) == "encoding: 0 of 1,000 (0 %)"
    said = []
    for done in range(10, 1_010, 10):
        clock.now += 0.2
        if line := lines.line("encoding", done, 1_000):
            said.append(line)
    assert len(said) == 10
    assert said[0] == "encoding: 100 of 1,000 (10 %), 18 s left"
    assert said[-1] == "encoding: 1,000 of 1,000 (100 %)"
    assert lines.line("measuring", 0, 50, "itq, 64 bits") == "measuring, itq, 64 bits: 0 of 50 (0 %)"
    clock.now += 9
    assert lines.line("measuring", 1, 50, "itq, 64 bits") is None
    clock.now += 1
    assert lines.line("measuring", 2, 50, "lsh, 64 bits") == (
        "measuring, lsh, 64 bits: 2 of 50 (4 %), 4 min left"
    )  # fmt: skip
    assert lines.line("writing the report", 0, 0) == "writing the report"


def test_a_short_phase_has_one_line() -> None:
    clock = Clock()
    lines = PhaseLines(clock)
    said = []
    for done in range(11):
        clock.now += 0.05
        said.append(lines.line("encoding", done, 10))
    assert [line for line in said if line] == ["encoding: 0 of 10 (0 %)"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (98, "98 s"), (300, "5 min"), (7_800, "2 h 10 min"), (5_999, "1 h 40 min")]
)
def test_duration_is_rounded_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rows_go_to_standard_output_and_progress_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with PhaseBar(as_json=False) as bar:
        bar("measuring", 1, 3)
        bar.print("a row")
    assert capsys.readouterr() == ("a row\n", "measuring: 1 of 3 (33 %)\n")
    with PhaseBar(as_json=True) as bar:
        bar("measuring", 1, 3)
    assert capsys.readouterr() == ("", "")
