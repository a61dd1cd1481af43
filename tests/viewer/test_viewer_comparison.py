"""Nearest latents of two dictionaries."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_library import make_library
from rich.console import Console
from torch import Tensor

from monosem.errors import UserError
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Provenance, Widths
from monosem.sae.storage import save_autoencoder
from monosem.viewer.comparison import Comparison, ComparisonQuery, compare_runs, nearest_rows
from monosem.viewer.reading import Library

N_RUN, N_OTHER, WIDTH = 37, 53, 8


def rows(count: int, seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * torch.rand(count, 1).add(0.1)


def nearest_literally(first: Tensor, second: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Of each row of the first, by float64, pair by pair."""
    found: list[list[tuple[int, float]]] = []
    for row in first.double():
        cosines = [float(row @ other / (row.norm() * other.norm())) for other in second.double()]
        order = sorted(range(len(cosines)), key=lambda other: -cosines[other])[:count]
        found.append([(other, cosines[other]) for other in order])
    return found


@pytest.mark.parametrize(("n_first", "n_second"), [(37, 53), (53, 37), (1, 7), (64, 64), (5, 2), (1, 1)])
@pytest.mark.parametrize("block", [1, 5, 16, 1000])
def test_the_nearest_rows_are_those_of_all_pairs(n_first: int, n_second: int, block: int) -> None:
    first, second = rows(n_first, 1), rows(n_second, 2)
    done: list[int] = []
    both = nearest_rows(first, second, block=block, report=done.append)
    for (latents, cosines), wanted in zip(
        both, (nearest_literally(first, second, 3), nearest_literally(second, first, 3)), strict=True
    ):
        for i, pairs in enumerate(wanted):
            missing = 3 - len(pairs)
            assert latents[i].tolist() == [latent for latent, _ in pairs] + [-1] * missing
            assert cosines[i, : len(pairs)].tolist() == pytest.approx([cosine for _, cosine in pairs], abs=1e-6)
    assert done == [*range(block, n_first, block), n_first]


def test_a_row_of_zeros_is_near_to_nothing_and_no_cosine_exceeds_one() -> None:
    first = rows(300, 3, width=3)
    first[4] = 0
    nearest, _ = nearest_rows(first, first.clone())
    assert nearest.cosines[4].tolist() == [0, 0, 0]
    assert float(nearest.cosines.max()) == 1
    others = torch.arange(300) != 4
    assert torch.equal(nearest.latents[others, 0], torch.arange(300)[others])


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., tuple[Path, Library, Autoencoder]]:
    """Makes the directory of a run with an autoencoder and an index, as changed by keywords."""

    def make(name: str, n_latents: int, seed: int, **changes: Any) -> tuple[Path, Library, Autoencoder]:
        width = changes.pop("width", WIDTH)
        target = changes.get("target")
        sae = new_autoencoder(
            AutoencoderConfig(n_latents=n_latents, k=2), Widths((width,), None if target is None else width)
        )
        sae.W_dec.data = rows(n_latents, seed, width)
        provenance = {"model": "tiny", "revision": "abc", "hookpoints": ("h.1",), "target": None, "context_length": 16}
        sae.provenance = Provenance(**(provenance | changes))
        directory = tmp_path / name
        save_autoencoder(sae, directory / "sae")
        indexed = changes.get("indexed", n_latents)
        return directory, Library(make_library(directory / "viewer.sqlite", name, indexed, seed).path), sae

    return make


@pytest.fixture
def compared(make_run: Callable[..., Any]) -> tuple[Comparison, Autoencoder, Autoencoder]:
    run, library, sae = make_run("one", N_RUN, 1)
    other, other_library, other_sae = make_run("two", N_OTHER, 2)
    console = Console(file=io.StringIO(), width=200)
    return compare_runs(run, other, library, other_library, console), sae, other_sae


@pytest.mark.parametrize("side", ["run", "other"])
def test_each_latent_has_its_nearest_with_the_others_labels(
    compared: tuple[Comparison, Autoencoder, Autoencoder], side: Any
) -> None:
    comparison, *saes = compared
    own, other = (comparison.run, comparison.other) if side == "run" else (comparison.other, comparison.run)
    first, second = saes if side == "run" else saes[::-1]
    wanted = nearest_literally(first.W_dec.detach(), second.W_dec.detach(), 3)
    page = comparison.page(ComparisonQuery(side=side, order="number", limit=100))
    assert (page["run"], page["other"], page["of"], page["more"]) == ("one", "two", len(wanted), False)
    assert [each["latent"] for each in page["latents"]] == list(range(len(wanted)))
    for each in page["latents"]:
        record = own.library.latent(each["latent"])
        assert (each["label"], each["density"]) == (record["label"], record["density"])
        assert each["nearest"] == [
            {
                "latent": latent,
                "similarity": pytest.approx(cosine, abs=2e-6),
                "label": other.library.latent(latent)["label"],
            }
            for latent, cosine in wanted[each["latent"]]
        ]


def test_pages_run_from_the_most_similar_to_the_most_different(
    compared: tuple[Comparison, Autoencoder, Autoencoder],
) -> None:
    comparison, first, second = compared
    best = {i: pairs[0][1] for i, pairs in enumerate(nearest_literally(first.W_dec.detach(), second.W_dec.detach(), 1))}
    for order, sign in (("similar", -1), ("different", 1)):
        found: list[int] = []
        for offset in range(0, 40, 10):
            page = comparison.page(ComparisonQuery(order=order, offset=offset, limit=10))
            found += [each["latent"] for each in page["latents"]]
            assert page["more"] == (offset < 30)
        assert found == sorted(best, key=lambda latent: sign * best[latent])
    assert comparison.page(ComparisonQuery(offset=1000))["latents"] == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "another"}, "the subject is tiny of one and another of the other"),
        ({"revision": None}, "the revision of the subject is abc of one and None of the other"),
        ({"hookpoints": ("h.2",)}, r"the hookpoint that it writes to is h\.1 of one and h\.2 of the other"),
        ({"target": "h.2"}, r"the hookpoint that it writes to is h\.1 of one and h\.2 of the other"),
        ({"width": 9}, "the width is 8 of one and 9 of the other"),
    ],
)
def test_dictionaries_of_other_spaces_are_refused(
    make_run: Callable[..., Any], changes: dict[str, Any], what: str
) -> None:
    run, library, _ = make_run("one", 20, 1)
    other, other_library, _ = make_run("two", 20, 2, **changes)
    with pytest.raises(UserError, match=f"do not write to the same space: .*{what}"):
        compare_runs(run, other, library, other_library)


def test_what_is_written_counts_and_not_what_is_read(make_run: Callable[..., Any]) -> None:
    run, library, _ = make_run("one", 20, 1, hookpoints=("h.0",), target="h.1")
    other, other_library, _ = make_run("two", 20, 2)
    assert compare_runs(run, other, library, other_library).run.nearest.latents.shape == (20, 3)


def test_an_index_of_another_autoencoder_is_refused(make_run: Callable[..., Any]) -> None:
    run, library, _ = make_run("one", 20, 1)
    other, _, _ = make_run("two", 30, 2)
    with pytest.raises(UserError, match=r"has 20 latents and its autoencoder 30; make it again with: monosem view"):
        compare_runs(run, other, library, library)


@pytest.mark.parametrize("changes", [{"limit": 0}, {"limit": 101}, {"offset": -1}, {"offset": 2**40}])
def test_pages_of_a_comparison_are_bounded(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="is not from"):
        ComparisonQuery(**changes)
