"""The bundled model as it ships: small, whole, and as good as its card says."""

import json
import math
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from monosem.subject import builtin
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig, SubjectModel

ROOT = Path(__file__).parent.parent.parent
CARD = builtin.MODEL_DIRECTORY / "README.md"


@pytest.fixture(scope="module")
def subject() -> SubjectModel:
    return load_subject(SubjectConfig(device="cpu"))


def bits_per_byte(subject: SubjectModel, files: int) -> float:
    """Held-out files, each read in disjoint windows of the whole context, every window's first token unpredicted."""
    held_out = [text for name, text in builtin.library_documents() if builtin.is_held_out(name)]
    bits, n_bytes = 0.0, 0
    for text in held_out[:: max(1, len(held_out) // files)]:
        ids = [0, *subject.tokenizer.encode(text[:8000], verbose=False)]
        n_bytes += len(text[:8000].encode())
        for start in range(0, len(ids) - 1, 511):
            window = torch.tensor(ids[start : start + 512])
            log_probabilities = subject.logits(window[None])[0, :-1].log_softmax(dim=-1)
            bits += float(F.nll_loss(log_probabilities, window[1:], reduction="sum")) / math.log(2)
    return bits / n_bytes


def test_it_has_the_size_and_shape_that_was_asked_for(subject: SubjectModel) -> None:
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    assert 2e6 <= parameters <= 6e6
    assert subject.max_context_length is not None
    assert subject.max_context_length >= 256
    assert len(subject.tokenizer) == 4096
    assert sum(file.stat().st_size for file in builtin.MODEL_DIRECTORY.iterdir()) <= 16e6
    assert not list(builtin.MODEL_DIRECTORY.glob("*.bin"))


def test_its_weights_are_float16_on_disk_and_finite(subject: SubjectModel) -> None:
    assert json.loads((builtin.MODEL_DIRECTORY / "config.json").read_text())["dtype"] == "float16"
    assert all(parameter.isfinite().all() for parameter in subject.model.parameters())


def test_it_predicts_held_out_files(subject: SubjectModel) -> None:
    assert bits_per_byte(subject, files=12) < 1.35


def test_its_tokenizer_gives_every_text_back(subject: SubjectModel) -> None:
    text = "def f(x):\n\treturn 'ünïcödé ✓ 日本' # <|x|>\r\n\x00"
    assert subject.tokenizer.decode(subject.tokenizer.encode(text)) == text


def test_its_card_claims_less_than_the_asked_bits_per_byte() -> None:
    figures = [float(number) for number in re.findall(r"\| \**(\d\.\d{3})\** \|", CARD.read_text(encoding="utf-8"))]
    assert len(figures) == 5
    assert figures[0] <= 1.20
    assert figures[0] == min(figures)


@pytest.mark.slow
def test_its_card_says_what_is_measured() -> None:
    """About five minutes on two cores. The figures hang on the library's text, so only on the Python of the card."""
    said = CARD.read_text(encoding="utf-8")
    if platform.python_version() not in said:
        pytest.skip("another Python has another library")
    try:
        subprocess.run([sys.executable, "scripts/train_builtin_subject.py", "card"], check=True, cwd=ROOT)
        assert CARD.read_text(encoding="utf-8") == said
    finally:
        CARD.write_text(said, encoding="utf-8")
