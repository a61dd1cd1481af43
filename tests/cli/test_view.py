"""``monosem view``, called as from a shell."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from monosem.cli.main import run

INDEX = ["--tokens", "900", "--examples-top", "3", "--examples-band", "1"]


def test_the_pages_are_written_as_files(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["view", str(trained), *INDEX, "--export", "site"]) == 0
    printed = capsys.readouterr().out
    assert "python -m http.server --directory site" in printed
    told = json.loads((tmp_path / "site/data/run.json").read_bytes())
    assert told["run"]["n_latents"] == 64
    assert told["index"]["tokens"] <= 900
    assert (tmp_path / "site/index.html").exists()


def test_it_serves_until_it_is_interrupted(trained: Path) -> None:
    command = [sys.executable, "-m", "monosem", "view", str(trained), *INDEX, "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        (address,) = [word for word in process.stdout.readline().split() if word.startswith("http://127.0.0.1:")]
        with urllib.request.urlopen(address + "api/run") as answer:
            assert json.load(answer)["can"] == {"prompt": True, "steer": True, "compare": None}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_what_makes_no_sense_is_refused(trained: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "would not be used with --export" in refused("view", str(trained), "--export", "site", "--port", "99")
    assert "holds no run" in refused("view", str(tmp_path / "nowhere"), "--no-browser")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("mine")
    told = refused("view", str(tmp_path / "nowhere"), "--export", "taken")  # before there could be anything to index
    assert "out=taken is not empty and holds no earlier export" in told
    assert (tmp_path / "taken/thesis.tex").read_text() == "mine"
