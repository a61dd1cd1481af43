"""Steering by a run's latents: what the subject says with and without, and what the command prints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import monosem
from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.steering import SteerableRun, open_steerable, steered
from monosem.sae.interventions import Intervention
from monosem.sae.site import Provenance
from monosem.subject.generation import Sampling

Make = Callable[..., RunConfig]
TEXT = [9, 21, 44, 6]
HOOKPOINT = "transformer.h.2"


@pytest.fixture
def run(tmp_path: Path, make_config: Make, console: Console) -> SteerableRun:
    monosem.train(make_config(tmp_path / "run", tokens=320), console=console)
    return open_steerable(tmp_path / "run")


def test_before_is_the_subjects_and_after_that_of_the_subject_steered(run: SteerableRun) -> None:
    found = steered(run.subject, run.sae, TEXT, {5: Intervention("add", 3.0)}, shown=4)
    tokens = torch.tensor([TEXT])
    before = run.subject.logits(tokens)[0, -1].softmax(dim=0)
    with run.subject.steer(HOOKPOINT, run.sae, {5: 3.0}):
        after = run.subject.logits(tokens)[0, -1].softmax(dim=0)
    assert {each.token for each in found.next} == {*before.topk(4).indices.tolist(), *after.topk(4).indices.tolist()}
    for each in found.next:
        assert each.before == pytest.approx(float(before[each.token]), abs=1e-6)
        assert each.after == pytest.approx(float(after[each.token]), abs=1e-6)
    larger = [max(each.before, each.after) for each in found.next]
    assert larger == sorted(larger, reverse=True)
    assert any(abs(each.before - each.after) > 1e-3 for each in found.next)


def test_without_an_effect_both_continuations_are_the_same(run: SteerableRun) -> None:
    same = steered(run.subject, run.sae, TEXT, {5: Intervention("add", 0.0)}, Sampling(length=8))
    assert same.before == same.after
    other = steered(run.subject, run.sae, TEXT, {5: Intervention("add", 9.0)}, Sampling(length=8))
    assert other.before == same.before != other.after


def test_an_added_bos_is_read_and_never_steered(run: SteerableRun, monkeypatch: pytest.MonkeyPatch) -> None:
    object.__setattr__(run.subject, "bos_id", 1)
    seen: list[torch.Size] = []
    intervene = run.sae.intervene

    def spy(activations: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(activations.shape)
        return intervene(activations, *args, **kwargs)

    monkeypatch.setattr(run.sae, "intervene", spy)
    found = steered(run.subject, run.sae, TEXT, {5: Intervention("clamp", 1.0)}, Sampling(length=0))
    assert seen == [torch.Size([1, len(TEXT), run.subject.d_model])]
    before = run.subject.logits(torch.tensor([[1, *TEXT]]))[0, -1].softmax(dim=0)
    assert found.next[0].before == pytest.approx(float(before[found.next[0].token]), abs=1e-6)


def test_the_largest_activation_is_that_of_the_examples(run: SteerableRun, tmp_path: Path) -> None:
    assert run.largest is not None
    assert run.largest.shape == (run.sae.n_latents,)
    (tmp_path / "run/examples.safetensors").unlink()
    assert open_steerable(tmp_path / "run").largest is None


def test_an_empty_text_and_a_crosscoder_are_refused(run: SteerableRun) -> None:
    with pytest.raises(UserError, match="empty; give at least one word"):
        steered(run.subject, run.sae, [], {})
    run.sae.provenance = Provenance(
        model="tiny", revision=None, hookpoints=("transformer.h.1", HOOKPOINT), context_length=16
    )
    with pytest.raises(UserError, match=r"known only when transformer\.h\.2 is, and it would change transformer\.h\.1"):
        steered(run.subject, run.sae, TEXT, {})
