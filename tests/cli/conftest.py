"""Commands on a tiny subject, called as from a shell."""

from collections.abc import Callable
from pathlib import Path

import pytest

from monosem.cli.main import run


@pytest.fixture(autouse=True)
def _in_whole_jobs(whole_jobs: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def source(tiny_subject: Path, tiny_text: Path) -> list[str]:
    """Flags that say which activations."""
    return f"--subject {tiny_subject} --device cpu --text {tiny_text} --context-length 16".split()


@pytest.fixture
def flags(source: list[str]) -> list[str]:
    """Flags of a run of ten steps."""
    recipe = "--n-latents 64 --k 4 --tokens 320 --batch-size 32 --dead-tokens 100"
    evaluation = "--eval-tokens 400 --downstream-tokens 1e2 --bootstrap-samples 10"
    return [*source, *recipe.split(), *evaluation.split()]


@pytest.fixture
def trained(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run."""
    assert run(["train", *flags, "--out", "run"]) == 0
    capsys.readouterr()
    return tmp_path / "run"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that the user has to mend: exit code 2, one message and no more, which is given back."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert run(arguments) == 2
        printed, said = capsys.readouterr()
        assert printed == ""
        assert "Traceback" not in said
        messages = [line for line in said.splitlines() if line.startswith("Error ")]
        parsers = said.count("For full helptext")
        assert len(messages) + parsers == 1, said
        if parsers:
            return " ".join(" ".join(line.strip("│ ") for line in said.splitlines()).split())
        assert said.splitlines()[-1] == messages[0], "the message is the last thing said, on one line"
        return messages[0]

    return call
