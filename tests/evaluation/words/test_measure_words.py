"""The whole of it on a sample, with a stand-in for the model: what is asked, and what scores come of the answers."""

import dataclasses
import json
import re
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation import sample as sample_module
from monosem.evaluation.n2g.examples import read_firings, split_sample
from monosem.evaluation.sample import Sample, take_sample
from monosem.evaluation.words.config import WordsConfig
from monosem.evaluation.words.measure import LATENT_TOKENS, NEVER_FIRES, WordsResults, measure_words
from monosem.evaluation.words.reply import Reply
from monosem.sae.site import Site

ALL = 10**6
EMBEDDINGS = "transformer.wte"


@pytest.fixture
def config(endpoint) -> WordsConfig:
    return WordsConfig(
        url=endpoint.url, model="stub", latents=10, examples=4, scored_contexts=6, retries=1, bootstrap_samples=40
    )


@pytest.fixture
def run(planted, subject, whole, config):
    """Measure, with some arguments put in the place of the usual ones."""

    def measure(settings: dict[str, Any] | None = None, **instead: Any) -> WordsResults:
        usual = {"sae": planted, "subject": subject, "site": Site((EMBEDDINGS,)), "sample": whole}
        used = usual | {"config": dataclasses.replace(config, **(settings or {})), "seed": 0} | instead
        alive = torch.zeros(used["sae"].n_latents, dtype=torch.bool)
        for _, firings in read_firings(*(used[name] for name in usual), lambda _: None):
            alive[firings.latents] = True
        return measure_words(alive=alive, **used)

    return measure


def literal_scores(sae, subject, hookpoint: str, scoring: Sample, latent: int, predicts) -> dict[str, float | None]:
    """Over all counted tokens of the half, one by one."""
    both = predicted = fired = 0
    for tokens, kept in zip(scoring.blocks.tokens, scoring.blocks.kept, strict=True):
        active = sae.encode(subject.capture(tokens[None], [hookpoint])[hookpoint][0]).dense()[:, latent] > 0
        for column in kept.nonzero()[:, 0].tolist():
            is_predicted = predicts(int(tokens[column]))
            both += is_predicted and bool(active[column])
            predicted += is_predicted
            fired += bool(active[column])
    return {
        "precision": both / predicted if predicted else None,
        "recall": both / fired if fired else None,
        "f1": 2 * both / (predicted + fired) if predicted + fired else None,
    }


def test_a_model_that_understands_has_precision_and_recall_one(run, endpoint, planted_tokens):
    results = run()
    assert [each.latent for each in results.explained] == [0, 1, 2]
    assert [each.sentence for each in results.explained] == [f"It fires on ⟨{token}⟩" for token in planted_tokens]
    assert {name: estimate.value for name, estimate in results.metrics.items()} == {
        "words_precision": 1.0,
        "words_recall": 1.0,
        "words_f1": 1.0,
    }
    assert {request["model"] for request in endpoint.requests} == {"stub"}
    assert {request["temperature"] for request in endpoint.requests} == {0}
    assert len({request["seed"] for request in endpoint.requests}) == 1


def test_with_all_blocks_drawn_the_scores_are_those_of_loops_over_the_whole_half(run, endpoint, sae, subject, whole):
    """A random autoencoder, and a model that predicts every token with an even number."""

    def answer(prompt: str) -> str:
        if "«" in prompt.partition("1. ")[2]:
            return '{"explanation": "even ones"}'
        lines = re.findall(r"^(\d+)\. ⟨(\d+)⟩$", prompt, re.MULTILINE)
        return json.dumps({"active": [int(number) for number, token in lines if int(token) % 2 == 0]})

    endpoint.answer = answer
    results = run({"scored_contexts": ALL, "latents": 8}, sae=sae, site=Site(("transformer.h.1",)))
    _, scoring = split_sample(whole, subject, 0)
    assert len(results.explained) == 8
    for each in results.explained:
        expected = literal_scores(sae, subject, "transformer.h.1", scoring, each.latent, lambda token: token % 2 == 0)
        assert each.scores == expected
        assert len(each.predictions) == len(scoring.blocks.tokens)
        assert {prediction.context.weight for prediction in each.predictions} == {1.0}
    known = [value for each in results.explained if (value := each.scores["recall"]) is not None]
    assert results.metrics["words_recall"].value == pytest.approx(sum(known) / len(known), rel=1e-12)


def literal_draw(results: WordsResults, scoring: Sample, fires: Tensor) -> None:
    """Weights are those of the strata; ``fires [blocks, n_latents]`` says in which blocks latents do."""
    first = scoring.blocks.positions[:, 0].tolist()
    for each in results.explained:
        for stratum in (True, False):
            drawn = [prediction.context for prediction in each.predictions if prediction.context.fires == stratum]
            blocks = [first.index(context.position) for context in drawn]
            there = (fires[:, each.latent] == stratum).nonzero()[:, 0].tolist()
            assert len(drawn) == len(set(blocks)) == min(3, len(there))
            assert set(blocks) <= set(there)
            assert all(context.weight == len(there) / len(drawn) for context in drawn)
            for block, context in zip(blocks, drawn, strict=True):
                assert list(context.tokens) == scoring.blocks.tokens[block].tolist()
                assert list(context.counted) == scoring.blocks.kept[block].tolist()


def test_blocks_are_drawn_in_two_strata_and_weighted_by_these(run, endpoint, sae, subject, whole):
    site = Site(("transformer.h.1",))
    endpoint.answer = lambda prompt: (
        '{"explanation": "all"}'
        if "«" in prompt.partition("1. ")[2]
        else json.dumps({"active": list(range(1, prompt.count("\n") + 1))[:12]})
    )
    results = run({"latents": 8}, sae=sae, site=site)
    _, scoring = split_sample(whole, subject, 0)
    raw = subject.capture(scoring.blocks.tokens, site.inputs)[site.inputs[0]]
    active = (sae.encode(raw).dense().view(*raw.shape[:2], -1) > 0) & scoring.blocks.kept[:, :, None]
    literal_draw(results, scoring, active.any(dim=1))
    for each in results.explained:
        fired = counted = 0.0
        for prediction in each.predictions:
            block = scoring.blocks.positions[:, 0].tolist().index(prediction.context.position)
            fired += prediction.context.weight * int(active[block, :, each.latent].sum())
            counted += prediction.context.weight * int(scoring.blocks.kept[block].sum())
        assert each.scores["precision"] == pytest.approx(fired / counted, rel=1e-12)
        assert each.scores["recall"] == (1.0 if fired else None)
    assert any(prediction.context.weight > 1 for each in results.explained for prediction in each.predictions)


def test_other_blocks_are_drawn_by_another_seed(run):
    first, second = (run(seed=seed).explained[0].predictions for seed in (0, 1))
    assert [each.context.position for each in first] != [each.context.position for each in second]


def test_a_model_that_names_nothing_has_no_precision_and_recall_nought(run, endpoint):
    endpoint.answer = lambda prompt: (
        '{"explanation": "never"}' if "«" in prompt.partition("1. ")[2] else '{"active": []}'
    )
    results = run()
    assert tuple(results.metrics["words_precision"]) == (None, None, None)
    assert results.metrics["words_recall"].value == results.metrics["words_f1"].value == 0.0
    assert results.to_dict()["defined"] == {"words_precision": 0, "words_recall": 3, "words_f1": 3}


def test_a_latent_that_never_fires_where_it_should_be_explained_costs_nothing(run, endpoint):
    results = run({"chosen": (3,)})
    assert [(each.latent, each.reason) for each in results.described] == [(3, NEVER_FIRES)]
    assert endpoint.requests == []
    assert all(tuple(estimate) == (None, None, None) for estimate in results.metrics.values())
    unexplained = {"latent": 3, "sentence": None, "reason": NEVER_FIRES}
    assert results.to_dict()["unexplained"] == [
        unexplained | {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
    ]


def test_a_latent_whose_answers_are_useless_is_told_and_the_others_are_scored(run, endpoint, planted_tokens):
    usual, spoilt = endpoint.answer, f"It fires on ⟨{planted_tokens[1]}⟩"
    endpoint.answer = lambda prompt: '{"active": [99]}' if spoilt in prompt else usual(prompt)
    results = run()
    assert [each.latent for each in results.explained] == [0, 2]
    (unexplained,) = results.to_dict()["unexplained"]
    assert unexplained == {
        "latent": 1,
        "sentence": spoilt,
        "reason": "no prediction: active holds something else than numbers from 1 to 12",
        "requests": 3,
        "prompt_tokens": 300,
        "completion_tokens": 21,
    }
    told = "\n\nYour last answer was not what was asked for: active holds something else than numbers from 1 to 12."
    assert [prompt.endswith(told) for prompt in endpoint.prompts if spoilt in prompt] == [False, True]
    endpoint.answer = lambda prompt: "Certainly!"
    results = run()
    assert {each.reason for each in results.described} == {"no explanation: it is not JSON"}


def test_the_record_is_plain_json_and_tells_what_it_took(run, endpoint):
    results = run()
    record = results.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["requests"] == len(endpoint.requests)
    assert record["prompt_tokens"] == 100 * len(endpoint.requests)
    assert record["completion_tokens"] == 7 * len(endpoint.requests)
    latent = record["latents"][0]
    assert latent["requests"] == 1 + len(latent["contexts"])
    fired = [context for context in latent["contexts"] if context["fires"]]
    assert fired
    assert all(context["predicted"] == context["active"] != [] for context in fired)
    assert record["settings"]["url"] == endpoint.url


def test_the_order_in_which_answers_come_changes_nothing(run, endpoint):
    once = run({"concurrency": 1}).to_dict()
    usual, count = endpoint.answer, 0

    def late(prompt: str) -> str:
        nonlocal count
        count += 1
        time.sleep(0.03 * (count % 3))
        return usual(prompt)

    endpoint.answer = late
    record = run({"concurrency": 3}).to_dict()
    assert record | {"settings": once["settings"]} == once


def test_the_size_of_batches_changes_nothing(run, monkeypatch):
    once = run().to_dict()
    monkeypatch.setattr(sample_module, "BATCH_TOKENS", 50)
    assert run().to_dict() == once


@pytest.mark.parametrize("after", [1, 5, 12])
def test_an_interrupted_measurement_goes_on_and_asks_nothing_twice(run, endpoint, after):
    whole = run().to_dict()
    asked = sorted(endpoint.prompts)
    assert len(set(asked)) == len(asked)
    endpoint.requests.clear()
    saved: list[str] = []

    class KilledError(Exception):
        pass

    def save(reply: Reply) -> None:
        saved.append(json.dumps(reply._asdict()))
        if len(saved) == after:
            raise KilledError

    with pytest.raises(KilledError):
        run(done=save)
    assert len(endpoint.requests) < len(asked)
    left = [Reply.from_dict(json.loads(line), "a file") for line in saved]
    assert run(explained=left).to_dict() == whole
    assert sorted(endpoint.prompts) == asked


def test_what_one_latent_is_refused_stops_the_others(run, endpoint):
    """Of 21 requests the second is refused; the others that are under way come to their end, and no more is asked."""
    usual = endpoint.answer

    def answer(prompt: str) -> Any:
        is_second = len(endpoint.requests) == 2
        time.sleep(0.0 if is_second else 0.1)
        return 401 if is_second else usual(prompt)

    endpoint.answer = answer
    kept: list[Reply] = []
    with pytest.raises(UserError, match="wants a key"):
        run({"concurrency": 3}, done=kept.append)
    assert len(endpoint.requests) <= 6
    assert len(kept) == len(endpoint.requests) - 1


def test_useless_answers_are_not_paid_for_again(run, endpoint):
    saved: list[Reply] = []
    endpoint.answer = lambda prompt: "Certainly!"
    first = run(done=saved.append).to_dict()
    assert len(endpoint.requests) == first["requests"] == 6
    assert run(explained=saved).to_dict() == first
    assert len(endpoint.requests) == 6


def test_a_kept_answer_that_was_changed_is_asked_for_again(run, endpoint):
    saved: list[Reply] = []
    whole = run(done=saved.append).to_dict()
    endpoint.requests.clear()
    saved[0] = saved[0]._replace(content="x")
    assert run(explained=saved).to_dict() == whole
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "record",
    [[], {}, {"asked": 3}, dict.fromkeys(Reply._fields), dict(Reply("a", "b", "c", 1, 1, 1)._asdict())],
)
def test_records_that_are_no_replies_are_refused(record):
    with pytest.raises(UserError, match="somewhere is damaged: it holds something else than a model's answers"):
        Reply.from_dict(record, "somewhere")


def test_only_counted_tokens_are_scored(run, endpoint, whole, documents, planted_tokens):
    """A model that marks everything, where one token in three does not count."""
    kept = whole.blocks.kept & (whole.blocks.positions % 3 != 0)
    fewer = take_sample(whole.blocks._replace(kept=kept), documents, kept, ALL)
    endpoint.answer = lambda prompt: (
        '{"explanation": "all"}' if "«" in prompt.partition("1. ")[2] else json.dumps({"active": list(range(1, 13))})
    )
    results = run({"scored_contexts": ALL}, sample=fewer)
    positions = {
        prediction.context.position + token
        for prediction in results.explained[0].predictions
        for token in prediction.predicted
    }
    assert len(positions) == results.scoring_tokens
    assert all(position % 3 for position in positions)
    is_there = [token == planted_tokens[0] for token in fewer.blocks.tokens.flatten().tolist()]
    at = dict(zip(fewer.blocks.positions.flatten().tolist(), is_there, strict=True))
    expected = sum(at[position] for position in positions) / len(positions)
    assert results.explained[0].scores["precision"] == pytest.approx(expected, rel=1e-12)


def test_an_added_bos_is_neither_shown_nor_scored(run, endpoint, subject, blocks, documents, whole):
    with_bos = dataclasses.replace(subject, bos_id=0)
    columns = torch.zeros(len(blocks.tokens), 1, dtype=torch.int64)
    front = type(blocks)(
        torch.cat([columns, blocks.tokens], dim=1),
        torch.cat([columns == 0, blocks.kept], dim=1),
        torch.cat([columns - 1, blocks.positions], dim=1),
    )
    sample = take_sample(front, torch.cat([columns - 1, documents], dim=1), front.kept, ALL)
    record = run(subject=with_bos, sample=sample).to_dict()
    assert all("\n12. " in prompt and "\n13. " not in prompt for prompt in endpoint.prompts if "behind its" in prompt)
    assert record == run().to_dict()


def test_progress_runs_up_to_the_total(run):
    calls: list[tuple[int, int]] = []
    results = run({"chosen": (0, 3)}, report=lambda done, total: calls.append((done, total)))
    total = results.building_tokens + results.scoring_tokens + 2 * LATENT_TOKENS
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_crosscoders_and_transcoders_are_explained(run, endpoint, make_coder):
    endpoint.answer = lambda prompt: (
        '{"explanation": "never"}' if "«" in prompt.partition("1. ")[2] else '{"active": [1]}'
    )
    for kind in ("transcoder", "crosscoder", "jumprelu"):
        sae, site = make_coder(kind)
        assert run({"latents": 2}, sae=sae, site=site).metrics["words_f1"].value is not None


def test_without_an_endpoint_nothing_can_be_measured(run):
    with pytest.raises(UserError, match="Explaining latents in words needs an endpoint; give words"):
        run(config=WordsConfig())


def test_latents_that_do_not_exist_are_refused(run, endpoint):
    with pytest.raises(UserError, match=r"chosen=4 is no latent; the autoencoder has latents 0 … 3"):
        run({"chosen": (4,)})
    assert endpoint.requests == []
