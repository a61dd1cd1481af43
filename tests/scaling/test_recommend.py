"""Laws on disk, and what they recommend for rows whose best size and loss are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.scaling.fits import fit
from monosem.scaling.recommend import BUILTIN_LAWS, recommend
from monosem.scaling.selection import FitConfig
from monosem.scaling.storage import load_fits, save_fits
from monosem.training.schedules import auto_learning_rate

D_MODEL, K, BATCH = 64, 8, 2048
SIZES = tuple(2**power for power in range(8, 15))
FEW = FitConfig(samples=60)
GAIN = FEW.gain


def loss(n: float, tokens: float) -> float:
    """A floor that falls with n, and an excess that falls with tokens: converged, by the rule, at 1e6 · (n/256)^0.6."""
    excess = GAIN / (0.5 - GAIN)
    return (0.1 + 2.0 * n**-0.4) / (1 + excess) * (1 + excess * 1e6 * (n / 256) ** 0.6 / tokens)


def best(budget: float) -> tuple[float, float]:
    """The best n for so many FLOPs, and its loss, by trying many."""
    sizes = np.geomspace(32, 10**6, 20_000)
    losses = [loss(n, budget / (12 * n * D_MODEL)) for n in sizes]
    return float(sizes[int(np.argmin(losses))]), min(losses)


def rate(n: int) -> float:
    return 0.9 * auto_learning_rate(n, BATCH, 2_000_000)


def row(n: int, *, seed: int = 0, k: int = K, **changes: Any) -> dict[str, Any]:
    tokens = np.geomspace(3e4, 2e7 * (n / 256) ** 0.3, 60)
    noise = np.exp(0.002 * np.random.default_rng([n, seed]).standard_normal())
    values = {
        "name": f"n{n}-k{k}-s{seed}-{changes.get('learning_rate', 0)}",
        "subject": "model",
        "subject_parameters": 1000,
        "hookpoint": "h.1",
        "architecture": "topk",
        "d_model": D_MODEL,
        "n_latents": n,
        "k": float(k),
        "tokens": int(tokens[-1]),
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "seed": seed,
        "flops_per_token": 12.0 * n * D_MODEL,
        "normalized_mse": noise * loss(n, tokens[-1]),
        "cross_entropy_increase": 2.5 * (noise * loss(n, tokens[-1])) ** 1.3,
        "curve_tokens": tokens.tolist(),
        "curve_normalized_mse": [noise * loss(n, each) for each in tokens],
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laws of all kinds that these rows determine."""
    out = tmp_path_factory.mktemp("laws")
    rows = [row(n, seed=seed) for n in SIZES for seed in (0, 1)]
    swept = [
        row(n, learning_rate=rate(n) * factor, tokens=2_000_000, normalized_mse=0.2 * np.exp(np.log(factor / off) ** 2))
        for n, off in zip(SIZES[:4], (1.003, 0.997, 0.997, 1.003), strict=True)
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    for what in ("compute", "tokens", "latents", "downstream"):
        save_fits(fit(what, rows, FEW), rows, FEW, out / f"{what}.json")
    save_fits(fit("learning-rate", swept, FEW), swept, FEW, out / "learning-rate.json")
    return out


def test_laws_come_back_as_they_were_stored(laws: Path) -> None:
    rows = [row(n, seed=seed) for n in SIZES for seed in (0, 1)]
    fitted, stored = fit("compute", rows, FEW).laws["k = 8"], load_fits(laws / "compute.json")
    assert stored.runs == {
        "subject": "model",
        "hookpoint": "h.1",
        "architecture": "topk",
        "d_model": D_MODEL,
        "batch_size": BATCH,
    }
    back = stored.laws["k = 8"]
    assert back.points == fitted.points and back.law.parameters == fitted.determined.parameters
    at = np.geomspace(1e11, 1e15, 5)
    assert all(np.array_equal(*pair) for pair in zip(back.law.predict(at), fitted.determined.predict(at), strict=True))
    assert back.sizes is not None and fitted.sizes is not None
    assert np.array_equal(back.sizes.predict(at).value, fitted.sizes.predict(at).value)


@pytest.mark.parametrize("budget", [3e12, 1e13, 3e13])
def test_the_recommended_size_and_loss_are_the_best_ones(laws: Path, budget: float) -> None:
    found = recommend(budget, laws)
    n, least = best(budget)
    assert found.n_latents.value == pytest.approx(n, rel=0.4)
    assert found.normalized_mse.value == pytest.approx(least, rel=0.02)
    at_recommended = loss(found.n_latents.value, found.tokens.value)
    assert at_recommended == pytest.approx(least, rel=0.02)
    assert found.n_latents.value * found.tokens.value * 12 * D_MODEL == pytest.approx(budget, rel=0.01)
    for estimate in (found.n_latents, found.tokens, found.normalized_mse, found.learning_rate):
        assert estimate is not None and estimate.low <= estimate.value <= estimate.high
    assert found.cross_entropy_increase is not None
    assert found.cross_entropy_increase.value == pytest.approx(2.5 * least**1.3, rel=0.05)
    assert found.tokens_to_convergence is not None
    assert found.tokens_to_convergence.value == pytest.approx(1e6 * (found.n_latents.value / 256) ** 0.6, rel=0.05)


def test_the_learning_rate_is_moved_to_the_recommended_budget(laws: Path) -> None:
    found = recommend(1e13, laws)
    assert found.learning_rate is not None
    wanted = 0.9 * auto_learning_rate(round(found.n_latents.value), BATCH, round(found.tokens.value))
    assert found.learning_rate.value == pytest.approx(wanted, rel=0.01)


def test_a_budget_beyond_the_fit_is_said_to_be(laws: Path) -> None:
    assert not any("times above" in note for note in recommend(1e13, laws).notes)
    assert any("times above what the law was fitted to" in note for note in recommend(1e18, laws).notes)
    assert any("times below what the law was fitted to" in note for note in recommend(1e9, laws).notes)


def test_without_the_other_laws_there_is_less_to_say(laws: Path, tmp_path: Path) -> None:
    (tmp_path / "compute.json").write_bytes((laws / "compute.json").read_bytes())
    found = recommend(1e13, tmp_path)
    assert found.learning_rate is found.tokens_to_convergence is found.cross_entropy_increase is None
    assert found.n_latents == recommend(1e13, laws).n_latents


@pytest.mark.parametrize(("k", "message"), [(16.0, r"k=16 has no law of compute; choose one of 8 by --k")])
def test_another_k_is_refused(laws: Path, k: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommend(1e13, laws, k=k)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("inf"), float("nan")])
def test_no_budget_is_refused(laws: Path, budget: float) -> None:
    with pytest.raises(UserError, match="is not positive"):
        recommend(budget, laws)


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _another_format(text: str) -> str:
    return json.dumps({**json.loads(text), "format_version": 99})


def _no_number(text: str) -> str:
    record = json.loads(text)
    next(iter(record["laws"].values()))["law"]["best"] = ["a", "b", "c"]
    return json.dumps(record)


def _no_laws(text: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "laws"})


@pytest.mark.parametrize("damage", [_cut, _another_format, _no_number, _no_laws])
def test_damaged_laws_are_named_with_the_remedy(laws: Path, tmp_path: Path, damage: Callable[[str], str]) -> None:
    (tmp_path / "compute.json").write_text(damage((laws / "compute.json").read_text()))
    with pytest.raises(UserError):
        recommend(1e13, tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .* write it with: monosem fit compute"):
        recommend(1e13, tmp_path / "elsewhere")


def test_laws_of_another_subject_are_refused(laws: Path) -> None:
    assert recommend(1e13, laws, subject="model") == recommend(1e13, laws)
    with pytest.raises(UserError, match="are of subject=model, not gpt2"):
        recommend(1e13, laws, subject="gpt2")


def test_the_builtin_laws_are_those_that_are_published_and_answer_by_default() -> None:
    published = Path(__file__).parents[2] / "docs" / "results" / "scaling" / "bundled" / "laws"
    names = {path.name for path in BUILTIN_LAWS.iterdir()}
    assert names == {"compute.json", "downstream.json", "learning-rate.json", "tokens.json"}
    assert all((BUILTIN_LAWS / name).read_bytes() == (published / name).read_bytes() for name in names)
    found = recommend(1e14, k=32.0)
    assert found == recommend(1e14, BUILTIN_LAWS, k=32.0)
    assert found.runs["subject"] == "builtin"
