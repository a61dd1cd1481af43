import pytest
import torch

from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.density import Firing, add_firing, dead_share, density, density_histogram, new_firing


def fire(latents: list[int], documents: list[int], n_latents: int, n_documents: int, n_batches: int = 3) -> Firing:
    firing = new_firing(n_latents, n_documents)
    for part in torch.arange(len(latents)).chunk(n_batches):
        add_firing(firing, torch.tensor(latents)[part], torch.tensor(documents)[part])
    return firing


def test_firing_is_counted_a_latent():
    firing = fire([0, 2, 2, 2, 1], [0, 1, 1, 0, 1], 5, 2)
    assert firing.tokens.tolist() == [1, 1, 3, 0, 0]
    assert density(firing, 10).tolist() == [0.1, 0.1, 0.3, 0.0, 0.0]


def test_nothing_fired_is_counted_as_such():
    firing = new_firing(3, 2)
    add_firing(firing, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert dead_share(firing) == Estimate(1.0, 1.0, 1.0)
    assert density_histogram(firing, 8).dead == 3


def test_the_dead_share_is_of_latents_that_never_fire():
    assert dead_share(fire([0, 2, 2, 2], [0, 1, 1, 0], 5, 2)).value == 0.6


def test_the_interval_is_the_jackknife_of_literally_left_out_documents():
    generator = torch.Generator().manual_seed(0)
    latents = (60 * torch.rand(80, generator=generator) ** 2).long()
    documents = torch.randint(9, (80,), generator=generator)
    left_out = [1 - len(latents[documents != document].unique()) / 60 for document in range(9)]
    assert len(set(left_out)) > 2
    mean = sum(left_out) / 9
    error = (8 / 9 * sum((share - mean) ** 2 for share in left_out)) ** 0.5
    estimate = dead_share(fire(latents.tolist(), documents.tolist(), 60, 9))
    value = 1 - len(latents.unique()) / 60
    assert estimate == pytest.approx((value, value - 1.96 * error, value + 1.96 * error), rel=1e-12)


def test_the_interval_holds_the_true_dead_share_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    fires = 10 ** (-3.5 * torch.rand(500, generator=generator))  # each latent's chance a document
    n_documents, held = 40, 0
    truth = float(((1 - fires.double()) ** n_documents).mean())
    for _ in range(200):
        document, latent = (torch.rand(n_documents, 500, generator=generator) < fires).nonzero(as_tuple=True)
        estimate = dead_share(fire(latent.tolist(), document.tolist(), 500, n_documents, 1))
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= truth <= estimate.high
    assert 0.92 <= held / 200 <= 1.0


def test_one_document_gives_no_interval():
    assert dead_share(fire([0, 1], [0, 0], 4, 1)) == Estimate(0.5, None, None)


def test_the_interval_stays_between_none_and_all():
    estimate = dead_share(fire([0, 1, 2, 3], [0, 0, 1, 0], 4, 2))
    assert estimate.value == estimate.low == 0.0
    assert estimate.high is not None
    assert 0.0 < estimate.high <= 1.0


def test_histogram_bins_are_octaves_of_the_number_of_tokens():
    counts = [0, 0, 1, 2, 3, 4, 7, 8, 8, 10]
    latents = [latent for latent, count in enumerate(counts) for _ in range(count)]
    histogram = density_histogram(fire(latents, [0] * len(latents), 10, 1), 10)
    assert histogram.dead == 2
    assert histogram.latents == (1, 2, 2, 3)
    assert [10**edge for edge in histogram.log10_edges] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])


def test_a_latent_that_always_fires_is_in_the_last_bin():
    assert density_histogram(fire([0] * 8, [0] * 8, 1, 1), 8).latents[-1] == 1
