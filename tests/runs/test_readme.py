"""The README's Python runs as it stands there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import monosem
from monosem.runs.config import RunConfig

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_readme_runs(tmp_path: Path, make_config: Callable[..., RunConfig], console: Console) -> None:
    """On a tiny run in the place of the quickstart's, up to where it trains another."""
    config = make_config(tmp_path / "run", tokens=320)
    monosem.train(config, console=console)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    used, _, trained = code.partition("config = ")
    assert "monosem.train(config)" in trained
    used = used.replace('"runs/quickstart"', repr(str(tmp_path / "run"))).replace("123:", "12:")
    used = used.replace('subject="builtin"', f"subject={str(config.subject.subject)!r}").replace("for i in", "w1 w2 w3")
    found: dict[str, Any] = {}
    exec(compile(used, "README.md", "exec"), found)
    assert found["logits"].shape == found["steered"].shape
    assert not torch.equal(found["logits"], found["steered"])
