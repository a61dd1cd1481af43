"""Looking at an evaluated run: a latent's contexts, and a text token by token."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import monosem
from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.inspect import Reader

Make = Callable[..., RunConfig]


@pytest.fixture
def reader(tmp_path: Path, make_config: Make, console: Console) -> Reader:
    monosem.train(make_config(tmp_path / "run", tokens=320), console=console)
    return Reader(tmp_path / "run", console=console)


def test_the_latents_of_a_text_are_those_of_its_activations(reader: Reader) -> None:
    words = [f"w{number}" for number in (5, 17, 40, 2, 33)]
    inspection = reader.inspect(" ".join(words), per_token=2)
    assert [view.token for view in inspection.tokens] == words
    tokens = torch.tensor([reader.subject.tokenizer.encode(" ".join(words), add_special_tokens=False)])
    raw = reader.subject.capture(tokens, ["transformer.h.2"])["transformer.h.2"][0]
    x = reader.sae.preprocess(raw).x
    dense = reader.sae.pre_activations(x)
    for view, pre_activations in zip(inspection.tokens, dense, strict=True):
        values, latents = pre_activations.topk(2)
        assert [latent for latent, _ in view.latents] == latents.tolist()
        assert [value for _, value in view.latents] == pytest.approx(values.tolist(), rel=1e-4)
    strongest = int(dense.max(dim=0).values.argmax())
    assert inspection.latents[0].latent == strongest


def test_a_text_longer_than_a_block_is_read_block_by_block(reader: Reader) -> None:
    words = [f"w{number % 60}" for number in range(40)]
    inspection = reader.inspect(" ".join(words))
    assert len(inspection.tokens) == 40
    again = reader.inspect(" ".join(words[16:32]))
    for view, other in zip(inspection.tokens[16:32], again.tokens, strict=True):
        assert [latent for latent, _ in view.latents] == [latent for latent, _ in other.latents]


def test_a_latents_contexts_are_where_it_fires_in_the_held_out_text(reader: Reader) -> None:
    (latent,) = reader.telling_latents(1)
    assert len(latent.contexts) == 5
    activations = [context.activation for context in latent.contexts]
    assert activations == sorted(activations, reverse=True)
    for context in latent.contexts:
        text = Path(context.document).read_text().split()
        pattern = f"{context.before} {context.token} {context.after}".split()
        assert any(text[start : start + len(pattern)] == pattern for start in range(len(text)))


def test_an_empty_text_is_refused(reader: Reader) -> None:
    with pytest.raises(UserError, match="empty; give at least one word"):
        reader.inspect("   ")


def test_a_run_without_examples_says_how_to_make_them(reader: Reader, tmp_path: Path, console: Console) -> None:
    (tmp_path / "run/examples.safetensors").unlink()
    with pytest.raises(UserError, match=f"has no examples yet; make them with: monosem eval {tmp_path / 'run'}"):
        Reader(tmp_path / "run", console=console)


def test_examples_of_another_text_are_refused(reader: Reader, tmp_path: Path, console: Console) -> None:
    file = tmp_path / "run/eval.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "text": "0" * 32}))
    with pytest.raises(UserError, match=r"not the one that it was evaluated on.*monosem eval"):
        Reader(tmp_path / "run", console=console)
