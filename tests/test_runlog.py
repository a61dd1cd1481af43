"""Where a run's numbers go, and the line that shows them."""

import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from monosem.errors import UserError
from monosem.runlog import (
    JsonLines,
    LogConfig,
    ProgressLine,
    WeightsAndBiases,
    clock,
    open_sinks,
    read_json_lines,
    require_packages,
    short,
)


def test_records_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.log({"tokens": 10, "loss": 0.5})
    assert (tmp_path / "m.jsonl").read_text() == '{"tokens": 10, "loss": 0.5}\n'
    sink.log({"tokens": 20, "loss": 1 / 3})
    sink.close()
    assert read_json_lines(tmp_path / "m.jsonl") == [{"tokens": 10, "loss": 0.5}, {"tokens": 20, "loss": 1 / 3}]


def test_a_resumed_log_drops_what_will_be_written_again(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps({"tokens": tokens, "loss": tokens / 7}) + "\n" for tokens in (10, 20, 30)))
    before = file.read_text().splitlines()
    sink = JsonLines(file, after_tokens=20)
    sink.log({"tokens": 31})
    sink.close()
    assert file.read_text().splitlines() == [*before[:2], '{"tokens": 31}']
    JsonLines(file).close()
    assert file.read_text() == ""


def test_a_last_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"tokens": 10}\n{"tokens": 20, "lo')
    assert read_json_lines(file) == [{"tokens": 10}]
    sink = JsonLines(file, after_tokens=100)
    sink.log({"tokens": 20})
    sink.close()
    assert file.read_text() == '{"tokens": 10}\n{"tokens": 20}\n'


def test_a_log_without_extras_is_the_file_alone(tmp_path: Path) -> None:
    (sink,) = open_sinks(LogConfig(), tmp_path, {})
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_holds_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, after in ((10, 0), (30, 25)):  # a run, and its resumption
        sinks = open_sinks(LogConfig(tensorboard=True), tmp_path, {}, after_tokens=after)
        for sink in sinks:
            sink.log({"tokens": first, "loss": 0.5})
            sink.log({"tokens": first + 20, "loss": 0.25})
            sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5), (30, 0.5), (50, 0.25)]


@pytest.mark.parametrize(
    ("config", "package"),
    [(LogConfig(tensorboard=True), "tensorboard"), (LogConfig(wandb_project="x"), "wandb")],
)
def test_a_missing_package_names_the_extra_before_anything_is_written(
    config: LogConfig, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'monosem\[{package}\]'"):
        open_sinks(config, tmp_path, {})
    assert not list(tmp_path.iterdir())
    require_packages(LogConfig())


class WandbStub(ModuleType):
    """The part of wandb that is used, which remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.util = SimpleNamespace(generate_id=lambda: f"id{len(self.begun)}")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = 0

    def init(self, **settings: Any) -> Any:
        self.begun.append(settings)
        return SimpleNamespace(
            log=lambda record, step: self.logged.append((record, step)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = WandbStub()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for tokens in (10, 20):
        sink = WeightsAndBiases("mine", tmp_path, {"training": {"seed": 1}})
        sink.log({"tokens": tokens, "loss": 0.5})
        sink.close()
    assert [begun["id"] for begun in stub.begun] == ["id0", "id0"]
    assert stub.begun[0] == {
        "project": "mine",
        "dir": str(tmp_path),
        "config": {"training": {"seed": 1}},
        "id": "id0",
        "resume": "allow",
    }
    assert stub.logged == [({"tokens": 10, "loss": 0.5}, 10), ({"tokens": 20, "loss": 0.5}, 20)]
    assert stub.finished == 2


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (1000, "1.00k"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (2_000_000, "2.00M"),
        (16_000_000_000, "16.0G"),
        (999_999, "1.00M"),
        (9_999, "10.0k"),
        (99_990, "100k"),
    ],
)
def test_counts_are_short(number: float | int, text: str) -> None:
    assert short(number) == text
    assert len(short(number)) <= 5


def test_times_are_clock_times() -> None:
    assert [clock(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 36_061)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still but when it is told."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def file_console(width: int = 80, terminal: bool = False) -> tuple[Console, Callable[[], list[str]]]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal), lambda: file.getvalue().splitlines()


def test_the_time_left_follows_the_speed_of_the_last_minute(tick: Callable[[float], None]) -> None:
    console, lines = file_console()
    with ProgressLine("Training", 100_000, console) as line:
        for step in range(1, 101):  # a hundred tokens a second
            tick(1)
            line.update(100 * step)
        assert lines()[-1] == "Training: 10.0k/100k tokens  100/s  15:00 left"
        for step in range(1, 101):  # then ten times as fast
            tick(1)
            line.update(10_000 + 600 * step)
    assert lines()[-1] == "Training: 70.0k/100k tokens  600/s  0:50 left"


def test_a_resumed_line_counts_only_what_it_saw_itself(tick: Callable[[float], None]) -> None:
    console, lines = file_console()
    with ProgressLine("Training", 2_000_000, console, done=1_000_000) as line:
        tick(20)
        line.update(1_010_000, ["nmse 0.1"])
    assert lines() == ["Training: 1.01M/2.00M tokens  500/s  33:00 left  nmse 0.1"]


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(tick: Callable[[float], None]) -> None:
    console, lines = file_console()
    with ProgressLine("Training", 3500, console) as line:
        for step in range(1, 36):
            tick(1)
            line.update(100 * step)
    assert [text.split()[1] for text in lines()] == ["1.00k/3.50k", "2.00k/3.50k", "3.00k/3.50k", "3.50k/3.50k"]
    assert lines()[-1] == "Training: 3.50k/3.50k tokens  100/s  in 0:35"


def test_steps_longer_than_a_minute_still_have_a_speed(tick: Callable[[float], None]) -> None:
    console, lines = file_console()
    with ProgressLine("Training", 1000, console) as line:
        for step in range(1, 4):
            tick(100)
            line.update(100 * step)
    assert lines()[-1] == "Training: 300/1.00k tokens  1/s  11:40 left"


def test_without_a_total_only_the_count_is_shown(tick: Callable[[float], None]) -> None:
    console, lines = file_console()
    with ProgressLine("Reading text", 0, console) as line:
        for step in range(12):
            line.update(1000 * step)
            tick(1)
    assert lines() == ["Reading text: 10.0k tokens"]


def test_before_the_first_update_nothing_is_shown() -> None:
    for terminal in (False, True):
        console, lines = file_console(terminal=terminal)
        with ProgressLine("Reading text", 0, console):
            pass
        assert lines() == []


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_the_line_fits(width: int, tick: Callable[[float], None]) -> None:
    console, lines = file_console(width, terminal=True)
    with ProgressLine("Training", 2_000_000, console) as line:
        tick(100)
        line.update(1_230_000, ["nmse 0.1234", "L0 31.9", "dead 12.3%"])
    (shown,) = [text for text in "\n".join(lines()).split("\x1b[2K") if "Training" in text][-1:]
    plain = Console(file=io.StringIO()).render_str(shown, markup=False).plain
    assert all(word in plain for word in ("1.23M/2.00M", "12.3k/s", "1:02 left", "nmse 0.1234", "dead 12.3%"))


def test_log_every_must_be_positive() -> None:
    with pytest.raises(UserError, match="log_every=0 is below 1"):
        LogConfig(log_every=0)
