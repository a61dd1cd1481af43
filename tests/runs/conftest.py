"""Whole jobs on a tiny subject: their configuration, and what makes two runs the same."""

import dataclasses
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import monosem
from monosem.evaluation.basics import EvaluationConfig
from monosem.runlog import LogConfig
from monosem.runs.config import RunConfig
from monosem.runs.hookpoint_run import HookpointRun
from monosem.runs.train import TrainedRun
from monosem.sae.config import AutoencoderConfig
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.checkpoint import checkpoints, load_checkpoint
from monosem.training.trainer import TrainingConfig


@pytest.fixture(autouse=True)
def _in_whole_jobs(whole_jobs: None) -> None: ...


@pytest.fixture
def make_config(tiny_subject: Path, tiny_text: Path) -> Callable[..., RunConfig]:
    """Makes the configuration of a run of 60 steps with AuxK, dead latents and clipping, as changed by keywords."""
    base = RunConfig(
        out=Path(),
        subject=SubjectConfig(subject=str(tiny_subject), device="cpu", context_length=16),
        text=TextConfig(text=(str(tiny_text),)),
        autoencoder=AutoencoderConfig(n_latents=64, k=4),
        training=TrainingConfig(
            tokens=1930, batch_size=32, checkpoint_every=500, dead_tokens=100, clip_norm=0.5, learning_rate=5e-3
        ),
        evaluation=EvaluationConfig(eval_tokens=400, downstream_tokens=100, bootstrap_samples=10),
        log=LogConfig(log_every=150),
    )

    def make(out: Path, **changes: Any) -> RunConfig:
        parts = [
            field.name for field in dataclasses.fields(base) if dataclasses.is_dataclass(getattr(base, field.name))
        ]
        whole: dict[str, Any] = {"out": out}
        for name, value in changes.items():
            if hasattr(base, name) and name not in parts:
                whole[name] = value
                continue
            part = next(part for part in parts if hasattr(getattr(base, part), name))
            whole[part] = dataclasses.replace(whole.get(part, getattr(base, part)), **{name: value})
        return dataclasses.replace(base, **whole)

    return make


@pytest.fixture
def at_batch() -> Callable[..., AbstractContextManager[None]]:
    """Within the block, once and within the step of the batch of this number, counted from 1, do something.

    ``at_batch(20, signal.SIGINT)`` sends a signal, ``at_batch(20, function)`` calls. Of runs trained side by side it is
    the first one's step, or that of the run whose directory has the name ``run``. It fails if that batch never comes.
    """

    @contextmanager
    def acting(number: int, action: signal.Signals | Callable[[], Any], run: str | None = None) -> Generator[None]:
        step, is_done = HookpointRun.step, False

        def act_and_step(self: HookpointRun, *arguments: Any) -> bool:
            nonlocal is_done
            if not is_done and self.trainer.progress.batches + 1 == number and run in (None, self.config.out.name):
                is_done = True
                signal.raise_signal(action) if isinstance(action, signal.Signals) else action()
            return step(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HookpointRun, "step", act_and_step)
            yield
        assert is_done, f"there was no batch {number}"

    return acting


@pytest.fixture
def killed_at(at_batch: Callable[..., AbstractContextManager[None]]) -> Callable[..., AbstractContextManager[None]]:
    """The block must not end by itself: at the step of that batch, as for ``at_batch``, it is killed."""

    def kill() -> None:
        raise RuntimeError("killed")

    @contextmanager
    def killing(number: int, run: str | None = None) -> Generator[None]:
        with at_batch(number, kill, run=run), pytest.raises(RuntimeError, match="killed"):
            yield

    return killing


@pytest.fixture
def train_whole_and_cut(
    tmp_path: Path,
    make_config: Callable[..., RunConfig],
    console: Console,
    killed_at: Callable[..., AbstractContextManager[None]],
    assert_same_training: Callable[[Path, Path], None],
) -> Callable[..., TrainedRun]:
    """Trains in ``whole``; and in ``cut``, killed and resumed, where the same must come of it. Gives the whole run."""

    def train_both(**changes: Any) -> TrainedRun:
        (trained,) = monosem.train(make_config(tmp_path / "whole", **changes), console=console)
        with killed_at(41):
            monosem.train(make_config(tmp_path / "cut", **changes), console=console)
        monosem.resume(tmp_path / "cut", console=console)
        assert_same_training(tmp_path / "whole", tmp_path / "cut")
        return trained

    return train_both


def _newest(run: Path) -> Path:
    return checkpoints(run / "checkpoints")[-1]


@pytest.fixture
def assert_same_training() -> Callable[[Path, Path], None]:
    """Compares all that training leaves behind, bit for bit: state, record, exported weights and the log."""

    def assert_same(one: Path, other: Path) -> None:
        first, second = (load_checkpoint(_newest(run)) for run in (one, other))
        assert first.record == second.record
        assert first.states.keys() == second.states.keys()
        for name, state in first.states.items():
            assert state.keys() == second.states[name].keys()
            for key, tensor in state.items():
                assert torch.equal(tensor, second.states[name][key]), f"{name} {key}"
        weights = [load_file(run / "sae" / "sae.safetensors") for run in (one, other)]
        assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
        assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
        assert (one / "sae" / "sae.json").read_text() == (other / "sae" / "sae.json").read_text()

    return assert_same
