"""The whole of N2G on a sample: planted latents, and a literal count in loops on a random subject."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation import sample
from monosem.evaluation.n2g import examples as examples_module
from monosem.evaluation.n2g import score as score_module
from monosem.evaluation.n2g.examples import collect_examples, read_firings, split_sample, text_of
from monosem.evaluation.n2g.measure import N2GConfig, N2GResults, measure_n2g
from monosem.evaluation.n2g.score import Counts, scores
from monosem.evaluation.n2g.trie import KINDS, Explanation
from monosem.evaluation.sample import Sample, take_sample
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Site, Widths
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

CONFIG = N2GConfig(latents=12, examples=4, padding=0, bootstrap_samples=40)


@pytest.fixture
def whole(blocks: Blocks, documents: Tensor) -> Sample:
    return take_sample(blocks, documents, blocks.kept, 10**6)


@pytest.fixture
def run(sae, subject, hookpoint, whole):
    """Measure, with some arguments put in the place of the usual ones."""

    def measure(**instead: Any) -> N2GResults:
        usual = {"sae": sae, "subject": subject, "site": Site((hookpoint,)), "sample": whole}
        used = usual | {"config": CONFIG, "seed": 0} | instead
        alive = torch.zeros(used["sae"].n_latents, dtype=torch.bool)
        for _, firings in read_firings(*(used[name] for name in usual), lambda _: None):
            alive[firings.latents] = True
        return measure_n2g(alive=alive, **used)

    return measure


def literal_activity(sae: Autoencoder, subject: SubjectModel, hookpoint: str, part: Sample) -> Tensor:
    """Every latent at every position of the part's blocks, ``[blocks, length, n_latents]``."""
    raw = torch.stack([subject.capture(tokens[None], [hookpoint])[hookpoint][0] for tokens in part.blocks.tokens])
    return sae.encode(raw).dense().view(*raw.shape[:2], -1)


def test_counts_and_scores_are_those_of_loops_over_tokens(run, sae, subject, hookpoint, whole):
    results = run()
    _, scoring = split_sample(whole, subject, 0)
    active = literal_activity(sae, subject, hookpoint, scoring)
    defined = {kind: [0, 0] for kind in KINDS}
    for slot, explanation in enumerate(results.explanations):
        for kind in KINDS:
            both = predicted = fired = 0
            for block in range(len(scoring.blocks.tokens)):
                for place in scoring.blocks.kept[block].nonzero()[:, 0].tolist():
                    match = explanation.tries[kind].match(scoring.blocks.tokens[block].tolist(), place)
                    is_active = bool(active[block, place, explanation.latent] > 0)
                    both += is_active and match is not None
                    predicted += match is not None
                    fired += is_active
            of_latent = results.scores[kind].of_latents[slot]
            assert of_latent["precision"].value == (both / predicted if predicted else None)
            assert of_latent["recall"].value == (both / fired if fired else None)
            assert of_latent["f1"].value == (2 * both / (predicted + fired) if predicted + fired else None)
            defined[kind][0] += predicted > 0
            defined[kind][1] += fired > 0
    for kind in KINDS:
        found = results.scores[kind].defined
        assert [found["precision"], found["recall"]] == defined[kind]
        assert found["precision"] > 0
        known = [each["precision"].value for each in results.scores[kind].of_latents]
        known = [value for value in known if value is not None]
        assert results.metrics[f"n2g_precision_{kind}"].value == pytest.approx(sum(known) / len(known), rel=1e-12)


def test_halves_share_no_document_and_hold_all_tokens(whole, subject):
    building, scoring = split_sample(whole, subject, 3)
    assert building.tokens + scoring.tokens == whole.tokens
    assert (building.n_documents, scoring.n_documents) == (4, 3)
    of_building, of_scoring = (set(part.blocks.positions[part.blocks.kept].tolist()) for part in (building, scoring))
    assert not of_building & of_scoring
    numbers = {int(p): int(d) for p, d in zip(whole.blocks.positions.flatten(), whole.documents.flatten(), strict=True)}
    assert not {numbers[p] for p in of_building} & {numbers[p] for p in of_scoring}
    assert split_sample(whole, subject, 4)[0].tokens != building.tokens


@pytest.mark.parametrize("small", [False, True])
def test_the_examples_are_the_strongest_and_a_random_draw(sae, subject, hookpoint, whole, small, monkeypatch):
    if small:
        monkeypatch.setattr(sample, "BATCH_TOKENS", 30)
        monkeypatch.setattr(examples_module, "_CANDIDATES", 20)
    latents = torch.tensor([5, 7, 30])
    firings = read_firings(sae, subject, Site((hookpoint,)), whole, lambda _: None)
    examples = collect_examples(firings, latents, sae.n_latents, 6, 0)
    active = literal_activity(sae, subject, hookpoint, whole) * whole.blocks.kept[:, :, None]
    for latent in latents.tolist():
        places = {(b, c): float(active[b, c, latent]) for b, c in (active[:, :, latent] > 0).nonzero().tolist()}
        assert len(places) > 12
        found = {kind: each.at(each.latents == latent) for kind, each in examples.items()}
        assert found["top"].activations.tolist() == pytest.approx(sorted(places.values(), reverse=True)[:6], rel=1e-5)
        for each in found.values():
            at = list(zip(each.blocks.tolist(), each.columns.tolist(), strict=True))
            assert len(set(at)) == 6
            assert each.activations.tolist() == pytest.approx([places[place] for place in at], rel=1e-5)
    drawn = examples["random"]
    assert drawn.activations.tolist() != examples["top"].activations.tolist()


def test_random_examples_are_drawn_evenly(whole, sae, subject, hookpoint):
    firings = list(read_firings(sae, subject, Site((hookpoint,)), whole, lambda _: None))
    latent = 7
    count = sum(int((each.latents == latent).sum()) for _, each in firings)
    drawn = torch.zeros(len(whole.blocks.tokens), 12)
    for seed in range(400):
        found = collect_examples(iter(firings), torch.tensor([latent]), sae.n_latents, 2, seed)["random"]
        drawn[found.blocks, found.columns] += 1
    expected = 400 * 2 / count
    assert int((drawn > 0).sum()) == count
    deviation = (drawn[drawn > 0] - expected).square().sum() / expected
    assert deviation < count + 4 * (2 * count) ** 0.5


def test_the_same_seed_gives_the_same_result(run):
    assert run().to_dict() == run().to_dict()
    assert run(seed=1).metrics != run().metrics


def test_the_sizes_of_batches_and_groups_change_nothing(run, subject, monkeypatch):
    once = run().to_dict()
    monkeypatch.setattr(sample, "BATCH_TOKENS", 50)
    monkeypatch.setattr("monosem.evaluation.n2g.build.GROUP_EXAMPLES", 20)
    monkeypatch.setattr("monosem.evaluation.n2g.build._VARIANT_TOKENS", 50)
    monkeypatch.setattr(score_module, "_MATCHED_TOKENS", 60)
    monkeypatch.setattr(score_module, "_RESAMPLED", 7)
    parts = run(subject=dataclasses.replace(subject, subject_batch=7)).to_dict()
    for old, new in zip(once["latents"], parts["latents"], strict=True):
        for kind in KINDS:
            assert [p[:2] for p in old["patterns"][kind]] == [p[:2] for p in new["patterns"][kind]]
            assert old[kind] == new[kind]
    assert once["metrics"] == parts["metrics"]


def test_an_interrupted_measurement_goes_on_to_the_same_result(run, monkeypatch):
    monkeypatch.setattr("monosem.evaluation.n2g.build.GROUP_EXAMPLES", 30)
    saved: list[str] = []

    class KilledError(Exception):
        pass

    def save(explanation: Explanation) -> None:
        saved.append(json.dumps(explanation.to_dict()))
        if len(saved) == 5:
            raise KilledError

    whole = run().to_dict()
    with pytest.raises(KilledError):
        run(done=save)
    explained = [Explanation.from_dict(json.loads(line), "a file") for line in saved]
    assert len(explained) == 5
    rest: list[int] = []
    assert run(explained=explained, done=lambda explanation: rest.append(explanation.latent)).to_dict() == whole
    assert sorted([*rest, *(each.latent for each in explained)]) == [each["latent"] for each in whole["latents"]]


def test_named_latents_are_explained_as_they_are_among_others(run, sae):
    among = {each["latent"]: each for each in run().to_dict()["latents"]}
    latents = list(among)[3:6]
    named = run(config=dataclasses.replace(CONFIG, chosen=tuple(latents)))
    assert [each["latent"] for each in named.to_dict()["latents"]] == latents
    for each in named.to_dict()["latents"]:
        assert each["patterns"] == among[each["latent"]]["patterns"]


def test_latents_that_never_fire_on_the_half_to_build_from_are_told(run, sae):
    results = run(config=dataclasses.replace(CONFIG, chosen=(0, 1, 7)))
    assert results.unexplained == (0, 1)
    assert [each.latent for each in results.explanations] == [7]
    assert results.to_dict()["unexplained"] == [0, 1]


def test_with_a_limit_on_the_suffix_fewer_examples_give_patterns(run):
    free, limited = (
        run(config=dataclasses.replace(CONFIG, longest_suffix=longest)).to_dict()["latents"] for longest in (None, 2)
    )
    given = [sum(each["top"]["examples"] for each in latents) for latents in (free, limited)]
    assert given[0] == sum(pattern[3] for each in free for pattern in each["patterns"]["top"]) > given[1] > 0
    assert max(len(pattern[0]) for each in limited for pattern in each["patterns"]["top"]) == 2


def test_no_more_latents_are_drawn_than_are_alive(run, sae):
    results = run(config=dataclasses.replace(CONFIG, latents=1000))
    assert results.alive == len(results.explanations) + len(results.unexplained) < sae.n_latents - 2


@pytest.mark.parametrize("chosen", [(), (0, 7, 9)])
def test_progress_runs_up_to_the_total(run, chosen):
    calls: list[tuple[int, int]] = []
    run(config=dataclasses.replace(CONFIG, chosen=chosen), report=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1][0] == calls[-1][1]
    assert len({total for _, total in calls}) == 1


def test_the_record_is_plain_json(run):
    record = run().to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["metrics"]) == {f"n2g_{name}_{kind}" for name in ("precision", "recall", "f1") for kind in KINDS}
    latent = record["latents"][0]
    assert latent["random"]["precision"].keys() == {"value", "low", "high"}
    assert 0 < len(latent["top"]["shown"]) <= 5
    assert Explanation.from_dict({name: latent[name] for name in ("latent", "patterns")}, "a file").latent >= 0


def test_an_added_bos_is_neither_explained_nor_scored(run, blocks, documents, sae, subject, hookpoint):
    with_bos = dataclasses.replace(subject, bos_id=0)
    columns = torch.zeros(len(blocks.tokens), 1, dtype=torch.int64)
    front = Blocks(
        torch.cat([columns, blocks.tokens], dim=1),
        torch.cat([columns == 0, blocks.kept], dim=1),
        torch.cat([columns - 1, blocks.positions], dim=1),
    )
    kept_bos = take_sample(front, torch.cat([columns - 1, documents], dim=1), front.kept, 10**6)
    results = run(subject=with_bos, sample=kept_bos)
    assert results.building_tokens + results.scoring_tokens == int(blocks.kept.sum())
    assert results.scores["top"].defined["precision"] > 0
    building, _ = split_sample(kept_bos, with_bos, 0)
    assert text_of(building, with_bos).shape[1] == blocks.tokens.shape[1]
    special = front._replace(kept=torch.cat([columns != 0, blocks.kept], dim=1))
    usual = take_sample(special, torch.cat([columns - 1, documents], dim=1), special.kept, 10**6)
    assert run(subject=with_bos, sample=usual).to_dict() == results.to_dict()


@pytest.mark.parametrize(("inputs", "target"), [((0, 1), None), ((1,), 2), ((0, 2), 1)])
def test_crosscoders_and_transcoders_are_explained(run, subject, blocks, inputs, target):
    names = [f"transformer.h.{layer}" for layer in range(3)]
    site = Site(tuple(names[i] for i in inputs), None if target is None else names[target])
    widths = Widths((16,) * len(inputs), None if target is None else 16)
    config = AutoencoderConfig(n_latents=40, k=4, crosscoder=len(inputs) > 1)
    sae = new_autoencoder(config, widths)
    raw = site.read(subject.capture(blocks.tokens, site.inputs)).flatten(0, 1)
    sae.W_enc.data.normal_(generator=torch.Generator().manual_seed(0))
    assert raw.shape[1] == sae.d_model
    results = run(sae=sae, site=site)
    assert results.scores["top"].defined["precision"] > 0


def test_a_latent_of_the_current_token_is_predicted_perfectly(run, subject, blocks, documents):
    """Read from the embeddings plus position, a direction that one token alone exceeds."""
    hookpoint = "transformer.wte"
    sae = new_autoencoder(AutoencoderConfig(architecture="relu", n_latents=3, preprocess="none"), subject.d_model)
    embeddings = subject.model.transformer.wte.weight
    tokens = blocks.tokens[blocks.kept].bincount(minlength=50).argsort(descending=True)[:3]
    for latent, token in enumerate(tokens.tolist()):
        direction = embeddings[token] - embeddings.mean(dim=0)
        reached = embeddings @ direction
        others = torch.cat([reached[:token], reached[token + 1 :]])
        assert others.max() < reached[token]
        sae.W_enc.data[latent] = direction
        sae.b_enc.data[latent] = -(others.max() + reached[token]) / 2
    results = run(sae=sae, site=Site((hookpoint,)))
    assert len(results.explanations) == 3
    for name, estimate in results.metrics.items():
        assert estimate.value == 1.0, name
    shown = [each["top"]["shown"] for each in results.to_dict()["latents"]]
    assert shown == [[f"⟨{token}⟩"] for token in tokens.tolist()]


def test_scores_have_intervals_over_documents_and_means_over_latents():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(1, 9, (40, 5), generator=generator).double()
    both = (predicted * torch.rand(40, 5, generator=generator).double()).round()
    counts = Counts(active=predicted + 2, predicted=predicted, both=both)
    counts.predicted[:, 4] = counts.both[:, 4] = 0
    counts.active[:, 3] = counts.both[:, 3] = 0
    found = scores(counts, samples=300, seed=0)
    values, *_ = zip(*(each["precision"] for each in found.of_latents), strict=True)
    assert values[0] == pytest.approx(float(both[:, 0].sum() / predicted[:, 0].sum()))
    value, low, high = found.of_latents[0]["precision"]
    assert low < value < high
    assert values[3:] == (0.0, None)
    assert found.of_latents[3]["recall"].value is None
    assert found.of_latents[4]["recall"].value == 0.0
    assert found.of_latents[4]["f1"].value == 0.0
    assert found.defined == {"precision": 4, "recall": 4, "f1": 5}
    assert found.mean["precision"].value == pytest.approx(sum(values[:4]) / 4)
    assert found.mean["precision"].low < found.mean["precision"].value < found.mean["precision"].high


def test_without_an_explanation_nothing_is_defined(run):
    results = run(config=dataclasses.replace(CONFIG, chosen=(0, 1)))
    assert results.explanations == ()
    assert all(tuple(estimate) == (None, None, None) for estimate in results.metrics.values())
    assert json.dumps(results.to_dict(), allow_nan=False)


def test_a_sample_of_one_document_is_refused(run, blocks, documents):
    with pytest.raises(UserError, match="The sample has 1 document, and explanations are built on one half"):
        run(sample=take_sample(blocks, torch.zeros_like(documents), blocks.kept, 10**6))


def test_latents_that_do_not_exist_are_refused(run):
    with pytest.raises(UserError, match=r"chosen=40 is no latent; the autoencoder has latents 0 … 39"):
        run(config=dataclasses.replace(CONFIG, chosen=(3, 40)))


def test_a_dead_autoencoder_is_refused(run, sae):
    sae.b_enc.data.fill_(-9)
    with pytest.raises(UserError, match="No latent fires in the sample"):
        run()


@pytest.mark.parametrize("name", ["latents", "examples", "longest_suffix", "bootstrap_samples"])
def test_nothing_to_measure_is_refused(name: str):
    with pytest.raises(UserError, match=f"{name}=0 is below 1"):
        N2GConfig(**{name: 0})


def test_a_latent_named_twice_is_refused():
    with pytest.raises(UserError, match="names a latent twice"):
        N2GConfig(chosen=(3, 4, 3))
