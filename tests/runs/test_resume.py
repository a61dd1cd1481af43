"""An interrupted and resumed run equals the uninterrupted one, bit for bit; and what a resume refuses."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.config import to_toml
from monosem.errors import UserError
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.interruption import Interruption
from monosem.runs.train import Interrupted

Make = Callable[..., RunConfig]
Compare = Callable[[Path, Path], None]
AtBatch = Callable[..., AbstractContextManager[None]]


@pytest.mark.parametrize("batch", [1, 37, 60])
def test_interrupted_and_resumed_equals_uninterrupted(
    batch: int,
    tmp_path: Path,
    make_config: Make,
    console: Console,
    at_batch: AtBatch,
    assert_same_training: Compare,
) -> None:
    monosem.train(make_config(tmp_path / "whole"), console=console)
    records = read_json_lines(tmp_path / "whole/metrics.jsonl")
    assert any(record["dead_share"] > 0 < record["auxiliary_loss"] for record in records), "AuxK never mattered"
    going_on = f"go on with: monosem train --resume {tmp_path / 'cut'}"
    with at_batch(batch, signal.SIGINT), pytest.raises(Interrupted, match=going_on) as stopped:
        monosem.train(make_config(tmp_path / "cut"), console=console)
    assert stopped.value.signal_number == signal.SIGINT
    assert (tmp_path / f"cut/checkpoints/step-{batch}").is_dir()
    assert not (tmp_path / "cut/sae").exists()
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")
    assert (tmp_path / "whole/eval.json").read_text() == (tmp_path / "cut/eval.json").read_text()


def test_two_interruptions_of_another_recipe_change_nothing_either(
    tmp_path: Path, make_config: Make, console: Console, at_batch: AtBatch, assert_same_training: Compare
) -> None:
    recipe: dict[str, Any] = {"multi_topk": True, "encoder_bias": False, "ema_tokens": 640, "tied_init": False}
    monosem.train(make_config(tmp_path / "whole", **recipe), console=console)
    for batch in (9, 41):
        with at_batch(batch, signal.SIGTERM), pytest.raises(Interrupted):
            if batch == 9:
                monosem.train(make_config(tmp_path / "cut", **recipe), console=console)
            else:
                monosem.resume(tmp_path / "cut", console=console)
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("batch", [10, 40])
def test_a_run_killed_before_or_after_its_first_checkpoint_goes_on(
    batch: int,
    tmp_path: Path,
    make_config: Make,
    console: Console,
    killed_at: AtBatch,
    assert_same_training: Compare,
) -> None:
    monosem.train(make_config(tmp_path / "whole"), console=console)
    with killed_at(batch):
        monosem.train(make_config(tmp_path / "cut"), console=console)
    assert (tmp_path / "cut/checkpoints").exists() == (batch == 40)
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"tokens": 1500, "los')  # as a power failure leaves it
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


def test_a_full_disk_leaves_the_earlier_checkpoint_to_go_on_from(
    tmp_path: Path,
    make_config: Make,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    at_batch: AtBatch,
    assert_same_training: Compare,
) -> None:
    monosem.train(make_config(tmp_path / "whole"), console=console)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        fill = partial(patch.setattr, shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with at_batch(20, fill), pytest.raises(UserError, match=r"A checkpoint needs .* free"):
            monosem.train(make_config(tmp_path / "cut"), console=console)
    assert [path.name for path in (tmp_path / "cut/checkpoints").iterdir()] == ["step-16"]
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, make_config: Make, console: Console) -> None:
    monosem.train(make_config(tmp_path / "run"), console=console)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monosem.resume(tmp_path / "run", console=console)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after


def test_a_moved_run_goes_on_where_it_is_now(
    tmp_path: Path, make_config: Make, console: Console, at_batch: AtBatch, assert_same_training: Compare
) -> None:
    monosem.train(make_config(tmp_path / "whole"), console=console)
    with at_batch(30, signal.SIGINT), pytest.raises(Interrupted):
        monosem.train(make_config(tmp_path / "cut"), console=console)
    (tmp_path / "cut").rename(tmp_path / "moved")
    monosem.resume(tmp_path / "moved", console=console)
    assert not (tmp_path / "cut").exists()
    assert_same_training(tmp_path / "whole", tmp_path / "moved")


@pytest.fixture
def cut(tmp_path: Path, make_config: Make, console: Console, at_batch: AtBatch) -> Path:
    """A run interrupted at step 20, with checkpoints at 16 and 20."""
    with at_batch(20, signal.SIGINT), pytest.raises(Interrupted):
        monosem.train(make_config(tmp_path / "cut"), console=console)
    return tmp_path / "cut"


def test_a_damaged_checkpoint_is_refused_and_an_earlier_one_serves(cut: Path, console: Console) -> None:
    weights = cut / "checkpoints/step-20/weights-0.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"weights-0.safetensors is damaged: .*checksum; remove the folder step-20"):
        monosem.resume(cut, console=console)
    shutil.rmtree(weights.parent)
    monosem.resume(cut, console=console)
    assert read_json_lines(cut / "metrics.jsonl")[-1]["tokens"] == 1920


def test_other_text_than_before_is_refused(cut: Path, console: Console, tmp_path: Path, tiny_text: Path) -> None:
    shutil.copytree(tiny_text, tmp_path / "text")
    file = cut / "config.toml"
    file.write_text(file.read_text().replace(str(tiny_text), str(tmp_path / "text")))
    (tmp_path / "text/more.jsonl").write_text('{"text": "w1 w2 w3"}\n' * 5)
    with pytest.raises(UserError, match="not what they were: 36 training documents when step-20 was written, 41 now"):
        monosem.resume(cut, console=console)


def test_a_changed_size_is_refused(cut: Path, console: Console) -> None:
    file = cut / "config.toml"
    file.write_text(file.read_text().replace("n_latents = 64", "n_latents = 96"))
    with pytest.raises(UserError, match=r"W_enc of \[64, 16\] and config.toml asks for \[96, 16\]"):
        monosem.resume(cut, console=console)


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match=r"holds no run \(config.toml is missing\)"):
        monosem.resume(tmp_path, console=console)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, as in a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_the_first_signal_the_second_is_not_held_back(interruptible: None) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Interruption() as interruption:
        assert interruption.received is None
        signal.raise_signal(signal.SIGTERM)
        assert interruption.received == signal.SIGTERM
        assert {number: signal.getsignal(number) for number in before} == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[Any] = []

    def enter() -> None:
        with Interruption() as interruption:
            seen.extend([interruption.received, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None, signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_from_outside_stops_the_command_with_a_checkpoint(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    make_config: Make,
    console: Console,
    assert_same_training: Compare,
) -> None:
    config = make_config(tmp_path / "cut", tokens=6400)
    (tmp_path / "config.toml").write_text(to_toml(config))
    command = [sys.executable, "-m", "monosem", "train", "--config", str(tmp_path / "config.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        metrics = config.out / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.005)
        process.send_signal(number)
        printed, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert printed == ""
    assert said.splitlines()[-1] == (
        f"Interrupted after a checkpoint; go on with: monosem train --resume {tmp_path / 'cut'}"
    )
    if number == signal.SIGINT:
        monosem.resume(config.out, console=console)
        monosem.train(make_config(tmp_path / "whole", tokens=6400), console=console)
        assert_same_training(tmp_path / "whole", config.out)
