import numpy as np
import pytest
import torch

from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap, draw_documents


def mean_statistic(sums: Sums) -> dict[str, torch.Tensor]:
    return {"mean": sums["y"] / sums["tokens"]}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_sums(n_documents: int) -> dict[str, torch.Tensor]:
    generator = seeded()
    return {
        "tokens": torch.randint(1, 90, (n_documents,), generator=generator).double(),
        "y": 5 * torch.rand(n_documents, generator=generator, dtype=torch.float64),
    }


def test_every_sample_draws_as_many_documents_as_there_are():
    counts = draw_documents(13, 100, seeded())
    assert counts.shape == (100, 13)
    assert torch.equal(counts.sum(dim=1), torch.full((100,), 13.0, dtype=torch.float64))
    assert counts.max() > 1


def test_the_value_is_the_statistic_of_all_documents_summed():
    sums = random_sums(17)
    estimate = bootstrap(sums, mean_statistic, samples=200, generator=seeded())["mean"]
    assert estimate.value == float(sums["y"].sum() / sums["tokens"].sum())
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high


def test_the_interval_is_that_of_literally_resampled_documents():
    sums = random_sums(11)
    drawn = torch.randint(11, (300, 11), generator=seeded())
    means = [float(sums["y"][row].sum() / sums["tokens"][row].sum()) for row in drawn]
    estimate = bootstrap(sums, mean_statistic, samples=300, generator=seeded())["mean"]
    assert estimate[1:] == pytest.approx(np.percentile(means, [2.5, 97.5]), rel=1e-12)


def test_drawing_in_parts_covers_all_samples(monkeypatch: pytest.MonkeyPatch):
    whole = bootstrap(random_sums(11), mean_statistic, samples=301, generator=seeded())
    monkeypatch.setattr("monosem.evaluation.bootstrap._DRAWS_ELEMENTS", 11 * 40)
    parts = bootstrap(random_sums(11), mean_statistic, samples=301, generator=seeded())
    assert parts["mean"] == pytest.approx(whole["mean"], rel=1e-12)


def test_an_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    generator = seeded()
    sums = {"tokens": torch.ones(400).double(), "y": torch.randn(400, generator=generator).double()}
    estimate = bootstrap(sums, mean_statistic, samples=4000, generator=generator)["mean"]
    assert estimate.high is not None
    assert estimate.low is not None
    expected = 2 * 1.96 * float(sums["y"].std(correction=0)) / 20
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.05)


def test_one_document_has_no_interval():
    estimate = bootstrap(random_sums(1), mean_statistic, samples=10, generator=seeded())["mean"]
    assert estimate.value is not None
    assert estimate == Estimate(estimate.value, None, None)


def test_what_is_undefined_on_a_sample_has_no_interval_and_what_is_undefined_has_no_value():
    def statistics(sums: Sums) -> dict[str, torch.Tensor]:
        share = sums["y"] / sums["tokens"]
        return {"sometimes": share.where(share > 0.4, torch.nan), "never": share / 0}

    sums = {"tokens": torch.ones(10).double(), "y": (torch.arange(10) % 2).double()}
    estimates = bootstrap(sums, statistics, samples=100, generator=seeded())
    assert estimates == {"sometimes": Estimate(0.5, None, None), "never": Estimate(None, None, None)}


def test_vectors_are_summed_over_documents_component_by_component():
    def largest(sums: Sums) -> dict[str, torch.Tensor]:
        return {"largest": sums["v"].amax(dim=1)}

    vectors = torch.eye(3, dtype=torch.float64)
    assert bootstrap({"v": vectors}, largest, samples=5, generator=seeded())["largest"].value == 1.0
