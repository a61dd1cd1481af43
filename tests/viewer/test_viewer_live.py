"""Texts that pass through a run's subject and autoencoder."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.directory import write_config
from monosem.runs.steering import steered
from monosem.sae.architectures import new_autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.interventions import Intervention
from monosem.sae.site import Provenance, Widths
from monosem.sae.storage import save_autoencoder
from monosem.subject.generation import Sampling
from monosem.subject.loading import weights_checksum
from monosem.subject.model import SubjectConfig
from monosem.viewer import live
from monosem.viewer.live import PROMPT_CHARACTERS, LiveRun, SteeredLatent, SteerRequest

HOOKPOINT, CONTEXT, WIDTH = "transformer.h.1", 16, 16


def make_run(directory: Path, subject: Path, revision: str | None = None, **settings: Any) -> Path:
    """A run as far as looking at it needs one: its configuration and an autoencoder of random weights."""
    directory.mkdir()
    write_config(
        RunConfig(
            out=directory, subject=SubjectConfig(subject=str(subject), device="cpu", layer=1, context_length=CONTEXT)
        )
    )
    sae = new_autoencoder(AutoencoderConfig(**({"n_latents": 64, "k": 4} | settings)), Widths((WIDTH,)))
    generator = torch.Generator().manual_seed(5)
    for parameter in (sae.W_enc, sae.W_dec):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    sae.b_enc.data.fill_(-1.6)
    sae.provenance = Provenance(
        model=str(subject),
        revision=revision or weights_checksum(subject),
        hookpoints=(HOOKPOINT,),
        context_length=CONTEXT,
    )
    save_autoencoder(sae, directory / "sae")
    return directory


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def run(tmp_path: Path, tiny_subject: Path, console: Console) -> LiveRun:
    return LiveRun(make_run(tmp_path / "run", tiny_subject), console)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 32, 40])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_prompts_latents_are_those_of_its_activations_block_by_block(
    tmp_path: Path, save_subject: Callable[..., Path], console: Console, count: int, adds_bos: bool
) -> None:
    run = LiveRun(make_run(tmp_path / "run", save_subject("gpt2", adds_bos=adds_bos)), console)
    words = [f"w{(7 * number) % 60}" for number in range(count)]
    read = run.prompt(" ".join(words))
    assert [run.subject.tokenizer.decode([each.token]) for each in read] == words
    length = CONTEXT - adds_bos
    for start in range(0, count, length):
        ids = [each.token for each in read[start : start + length]]
        block = torch.tensor([[1, *ids] if adds_bos else ids])
        raw = run.subject.capture(block, [HOOKPOINT])[HOOKPOINT][0, int(adds_bos) :]
        dense = run.sae.pre_activations(run.sae.preprocess(raw).x)
        for each, pre_activations in zip(read[start : start + length], dense, strict=True):
            values, latents = pre_activations.topk(4)
            active = [(i, v) for i, v in zip(latents.tolist(), values.tolist(), strict=True) if v > 0]
            assert [latent for latent, _ in each.latents] == [latent for latent, _ in active]
            assert [value for _, value in each.latents] == pytest.approx([value for _, value in active], rel=1e-4)


def test_latents_that_the_relu_zeroed_are_not_active(run: LiveRun) -> None:
    counts = [len(each.latents) for each in run.prompt(" ".join(f"w{number}" for number in range(60)))]
    assert min(counts) < 4 == max(counts)


def test_of_very_many_active_latents_the_strongest_are_told(run: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.prompt("w1 w2 w3")
    monkeypatch.setattr(live, "SHOWN_LATENTS", 2)
    assert [each.latents for each in run.prompt("w1 w2 w3")] == [each.latents[:2] for each in whole]


def test_a_prompt_without_tokens_has_none(run: LiveRun) -> None:
    assert run.prompt("") == run.prompt("   ") == []


def test_prompts_are_bounded_and_whole_characters(run: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="text has 20,001 characters and may have 20,000; shorten it"):
        run.prompt("w" * (PROMPT_CHARACTERS + 1))
    with pytest.raises(UserError, match="text has 1,025 tokens and may have 1,024; shorten it"):
        run.prompt("w1 " * 1025)
    assert len(run.prompt("w1 " * 1024)) == 1024
    with pytest.raises(UserError, match="text has half a character at 3, a lone surrogate; leave it out"):
        run.prompt("w1 \ud83d")


def test_one_text_at_a_time_passes_through(run: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, encode = 0, 0, live.encode_text

    def counted(*arguments: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.01)
        codes = encode(*arguments)
        inside -= 1
        return codes

    monkeypatch.setattr(live, "encode_text", counted)
    threads = [threading.Thread(target=run.prompt, args=("w1 w2",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_another_subject_than_in_training_is_told(tmp_path: Path, tiny_subject: Path, console: Console) -> None:
    LiveRun(make_run(tmp_path / "run", tiny_subject, revision="0" * 32), console)
    assert isinstance(console.file, io.StringIO)
    assert "The subject has changed since training" in console.file.getvalue()


def test_a_directory_without_a_run_is_refused(tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match="holds no run"):
        LiveRun(tmp_path, console)


# Steering


def request(text: str = "w1 w2", **changes: Any) -> SteerRequest:
    latents = (SteeredLatent(latent=3, how="add", strength=2.5), SteeredLatent(latent=63, how="ablate"))
    return SteerRequest(**({"text": text, "latents": latents} | changes))


def test_a_request_is_steered_as_it_says(run: LiveRun) -> None:
    wanted = request(keep_error=False, length=5, samples=2, temperature=0.5, seed=9)
    latents = {3: Intervention("add", 2.5), 63: Intervention("ablate")}
    sampling = Sampling(length=5, samples=2, temperature=0.5, seed=9)
    ids = run.subject.tokenizer.encode("w1 w2", add_special_tokens=False)
    expected = steered(run.subject, run.sae, ids, latents, sampling, keep_error=False)
    assert run.steer(wanted) == expected
    assert run.steer(request(length=5, samples=2, temperature=0.5, seed=9)) != expected
    assert len(expected.before) == len(expected.after) == 2


def test_what_cannot_be_steered_is_refused(run: LiveRun) -> None:
    outside = (SteeredLatent(latent=64, how="scale", strength=0.0),)
    with pytest.raises(UserError, match="latent=64 is not in this dictionary; its latents are 0 … 63"):
        run.steer(request(latents=outside))
    with pytest.raises(UserError, match="text is empty"):
        run.steer(request(text=" "))
    with pytest.raises(UserError, match="text has 35 tokens and may have 34; shorten it"):  # the subject sees 64
        run.steer(request(text="w1 " * 35))
    with pytest.raises(UserError, match="length=64 leaves no room for the text, of 64 tokens in all; lower it"):
        run.steer(request(length=64))
    assert all(len(text) <= 30 for text in run.steer(request(text="w1 " * 34)).after)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: request(latents=()), "latents names 0; give from 1 to 20"),
        (lambda: request(latents=tuple(SteeredLatent(latent=i, how="ablate") for i in range(21))), "latents names 21"),
        (lambda: request(latents=(SteeredLatent(latent=3, how="ablate"),) * 2), "latents names 3 twice"),
        (lambda: SteeredLatent(latent=-1, how="add"), "latents: latent=-1 is not from 0"),
        (lambda: SteeredLatent(latent=1, how="add", strength=float("nan")), "latents: strength=nan is not from"),
        (lambda: SteeredLatent(latent=1, how="add", strength=-2e6), "latents: strength=-2000000.0 is not from"),
        (lambda: request(length=101), "length=101 is not from 0 to 100"),
        (lambda: request(samples=0), "samples=0 is not from 1 to 5"),
        (lambda: request(temperature=-1.0), r"temperature=-1\.0 is not from 0 to 10"),
        (lambda: request(temperature=float("inf")), "temperature=inf is not from 0 to 10"),
        (lambda: request(seed=-1), "seed=-1 is not from 0"),
    ],
)
def test_requests_to_steer_are_bounded(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
