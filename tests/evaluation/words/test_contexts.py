"""The contexts that a latent is explained by, against a slow choice in loops."""

import math

import pytest
import torch

from monosem.evaluation import sample as sample_module
from monosem.evaluation.n2g.examples import collect_examples, read_firings, split_sample
from monosem.evaluation.words import contexts as contexts_module
from monosem.evaluation.words.contexts import Example, collect_contexts
from monosem.sae.site import Site

SITE = Site(("transformer.h.1",))
LATENTS = torch.tensor([0, 5, 7, 30])


@pytest.fixture
def building(whole, subject):
    return split_sample(whole, subject, 0)[0]


@pytest.fixture
def collect(sae, subject, building):
    def collecting(count: int, seed: int = 0) -> dict[int, tuple[Example, ...]]:
        return collect_contexts(sae, subject, SITE, building, LATENTS, count, seed, lambda _: None)

    return collecting


def literal_activations(sae, subject, building, latent: int) -> dict[int, dict[int, float]]:
    """Activation by block and column, where the latent is active and the token counted."""
    raw = subject.capture(building.blocks.tokens, SITE.inputs)[SITE.inputs[0]]
    dense = sae.encode(raw).dense().view(*raw.shape[:2], -1)[:, :, latent] * building.blocks.kept
    found: dict[int, dict[int, float]] = {}
    for block, column in (dense > 0).nonzero().tolist():
        found.setdefault(block, {})[column] = float(dense[block, column])
    return found


@pytest.mark.parametrize("count", [1, 5, 100])
def test_the_contexts_are_of_the_strongest_and_of_random_activations(
    collect, sae, subject, building, count: int, monkeypatch
):
    monkeypatch.setattr(contexts_module, "TOKENS_BEFORE", 3)
    monkeypatch.setattr(contexts_module, "TOKENS_BEHIND", 2)
    monkeypatch.setattr(sample_module, "BATCH_TOKENS", 50)
    found = collect(count)
    assert found[0] == ()  # never fires
    firings = read_firings(sae, subject, SITE, building, lambda _: None)
    random = collect_examples(firings, LATENTS, sae.n_latents, count, 0)["random"]
    for latent in LATENTS.tolist()[1:]:
        activations = literal_activations(sae, subject, building, latent)
        largest = max(max(each.values()) for each in activations.values())
        ranked = sorted(((-a, b, c) for b, each in activations.items() for c, a in each.items()))
        top = [(b, c) for _, b, c in ranked[:count]]
        these = random.at(random.latents == latent)
        drawn = list(zip(these.blocks.tolist(), these.columns.tolist(), strict=True))
        chosen: dict[int, int] = {}
        for block, column in top:
            if len(chosen) < math.ceil(count / 2) and block not in chosen:
                chosen[block] = column
        for block, column in drawn + top:
            if len(chosen) < count and block not in chosen:
                chosen[block] = column
        assert len(found[latent]) == len(chosen) <= count
        for example, (block, column) in zip(found[latent], chosen.items(), strict=True):
            shown = [place for place in range(column - 3, column + 3) if 0 <= place < 12]
            assert list(example.tokens) == [int(building.blocks.tokens[block, place]) for place in shown]
            for place, level in zip(shown, example.levels, strict=True):
                activation = activations[block].get(place, 0.0)
                assert abs(level - 10 * activation / largest) < 1 + 1e-4
                assert (level > 0) == (activation > 0)
        assert max(found[latent][0].levels) == 10  # the strongest of all


def test_a_latent_is_shown_in_every_block_where_it_fires_if_so_many_are_wanted(collect, sae, subject, building):
    for latent, examples in collect(100).items():
        assert len(examples) == len(literal_activations(sae, subject, building, latent))


def test_the_same_seed_shows_the_same_and_another_seed_others(collect):
    assert collect(5) == collect(5) != collect(5, seed=1)
