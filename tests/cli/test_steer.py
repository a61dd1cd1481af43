"""``monosem steer``, called as from a shell."""

from collections.abc import Callable
from pathlib import Path

import pytest

from monosem.cli.main import run
from monosem.evaluation.examples import load_examples

TEXT = "w5 w17 w40"


@pytest.fixture
def latent(trained: Path) -> int:
    """The latent with the largest activation."""
    return int(load_examples(trained / "examples.safetensors").values[:, 0].argmax())


def test_it_prints_next_tokens_and_continuations(
    trained: Path, latent: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--latent", str(latent), "--strength", "4x", "--length", "5", "--samples", "2"]
    assert run(["steer", str(trained), TEXT, *flags]) == 0
    printed = capsys.readouterr().out
    largest = float(load_examples(trained / "examples.safetensors").values[latent, 0])
    assert f"latent {latent}: add {4 * largest:.3g}" in printed
    assert "Next token" in printed
    before, after = printed.split("Before\n")[1].split("After\n")
    for part in (before, after):
        assert part.count(TEXT) == 2


def test_every_latent_can_have_its_own_strength(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--latent", "3", "7", "--strength", "0.5", "2", "--how", "clamp", "--length", "0"]
    assert run(["steer", str(trained), TEXT, *flags]) == 0
    assert "latent 3: clamp 0.5   latent 7: clamp 2" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused(trained: Path, latent: int, refused: Callable[..., str]) -> None:
    steer = ("steer", str(trained), TEXT, "--latent")
    assert "is not used by --how ablate" in refused(*steer, "3", "--how", "ablate", "--strength", "2")
    assert "2 latents and 0 strengths" in refused(*steer, "3", "4")
    assert "strength=lots is no number" in refused(*steer, "3", "--strength", "lots")
    assert "must name latents, each once" in refused(*steer, "3", "3", "--strength", "1")
    assert "latent=64 is out of range" in refused(*steer, "64", "--strength", "1")
    assert "latent=64 is out of range" in refused(*steer, "64", "--strength", "2x")
    (trained / "examples.safetensors").unlink()
    assert "the run was not evaluated" in refused(*steer, str(latent), "--strength", "2x")
