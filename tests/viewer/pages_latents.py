"""Latents made up for the pages' tests: simple rules over real text, told in the records that the API sends.

Each rule fires on a token, after a token, on a kind of token or on both of two in a row; with noise, so that patterns
have hits, misses and false alarms. Everything follows from a latent's number.
"""

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from pages_text import BOS, CONTEXT, corpus, document_of, token_text

from monosem.viewer.schema import BANDS, HISTOGRAM_BINS, TOP

RULES = 320
"""Latents that differ; a run may claim more, which repeat them."""
DEAD = frozenset({7, 230})
PER_BAND = 5
KINDS = (
    r"^\s*\d+$",
    r"^\s?[A-Z][a-z]+$",
    r"^\s?[A-Z]{2,}",
    r"^\s*[)\]}]+",
    r"^\s*(def|class|return|if|for|while|raise|import|from)$",
    r"^\s*(self|cls)$",
    r"^\s*['\"]",
    r"^\n\s*$",
    r"^ {3,}$",
    r"^_\w*",
)


class Firings(NamedTuple):
    """Where in the line of tokens a latent fires, and how strongly."""

    positions: np.ndarray
    values: np.ndarray


@cache
def _texts() -> list[str]:
    return [token_text(int(token)) for token in corpus().tokens]


@cache
def _by_frequency() -> np.ndarray:
    tokens, counts = np.unique(corpus().tokens, return_counts=True)
    return tokens[np.argsort(-counts, kind="stable")]


def _kind_mask(kind: str) -> np.ndarray:
    is_kind = {text: re.search(kind, text) is not None for text in set(_texts())}
    return np.array([is_kind[text] for text in _texts()])


def rule_token(latent: int) -> int:
    """The token that a latent's rule speaks of: common ones first, then ever rarer."""
    ranked = _by_frequency()
    return int(ranked[min(len(ranked) - 1, int(2 * 1.018**latent))])


@cache
def firings(latent: int) -> Firings:
    line = corpus().tokens
    random = np.random.default_rng(latent)
    token = line == rule_token(latent)
    match latent % 8:
        case 4:
            mask = np.roll(token, 1)
        case 5:
            mask = _kind_mask(KINDS[latent // 8 % len(KINDS)])
        case 6:
            mask = token & (np.roll(line, 1) % 3 == latent % 3)
        case 7:
            mask = _kind_mask(KINDS[latent // 8 % len(KINDS)]) | (random.random(len(line)) < 0.05)
        case _:
            mask = token
    mask = (mask & (random.random(len(line)) < 0.9)) | (random.random(len(line)) < 4e-4)
    positions = np.flatnonzero(mask & (latent not in DEAD))
    strength = 0.05 + 0.2 * random.random()
    values = strength * np.exp(0.5 * random.standard_normal(len(positions))) * (1 + (line[positions] % 5) / 5)
    return Firings(positions, values.astype(np.float32))


def _fires_on(latent: int) -> list[dict[str, Any]]:
    positions, values = firings(latent)
    tokens, inverse = np.unique(corpus().tokens[positions], return_inverse=True)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    return [
        {
            "token": int(tokens[i]),
            "text": token_text(int(tokens[i])),
            "count": int(counts[i]),
            "mean": float(sums[i] / counts[i]),
            "share": float(sums[i] / sums.sum()),
        }
        for i in np.argsort(-sums, kind="stable")[:10]
    ]


def _effects(latent: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tokens that follow more, and less, than elsewhere; as logits."""
    line = corpus().tokens
    size = int(line.max()) + 1
    base = np.bincount(line, minlength=size) + 0.5
    following = line[np.minimum(firings(latent).positions + 1, len(line) - 1)]
    after = np.bincount(following, minlength=size) + 0.002 * base
    effect = 4 * (np.log(after / after.sum()) - np.log(base / base.sum()))
    effect += 0.5 * np.random.default_rng(latent + 10_000).standard_normal(size)
    order = np.argsort(-effect)

    def told(ids: np.ndarray) -> list[dict[str, Any]]:
        return [{"token": int(i), "text": token_text(int(i)), "effect": float(effect[i])} for i in ids]

    return told(order[:10]), told(order[::-1][:10])


def _example(firing: Firings, place: int, band: int, rank: int) -> dict[str, Any]:
    length = CONTEXT - 1
    position = int(firing.positions[place])
    start = position // length * length
    ids = [BOS, *map(int, corpus().tokens[start : start + length])]
    here = (firing.positions >= start) & (firing.positions < start + length)
    rows = zip(firing.positions[here], firing.values[here], strict=True)
    return {
        "band": band,
        "rank": rank,
        "document": document_of(start),
        "start": start,
        "ids": ids,
        "texts": [token_text(token) for token in ids],
        "position": position - start + 1,
        "value": float(firing.values[place]),
        "activations": [[int(at) - start + 1, float(value)] for at, value in rows],
    }


def _examples(latent: int) -> list[dict[str, Any]]:
    firing = firings(latent)
    if len(firing.positions) == 0:
        return []
    order = np.argsort(-firing.values)
    blocks = firing.positions // (CONTEXT - 1)

    def of_different_blocks(places: np.ndarray) -> list[int]:
        chosen: dict[int, int] = {}
        for place in places:
            chosen.setdefault(int(blocks[place]), int(place))
        return list(chosen.values())[:PER_BAND]

    found = [_example(firing, place, TOP, rank) for rank, place in enumerate(of_different_blocks(order))]
    edges = np.quantile(firing.values, BANDS)
    random = np.random.default_rng(latent + 20_000)
    for band in range(len(BANDS) - 1):
        inside = np.flatnonzero((firing.values >= edges[band]) & (firing.values <= edges[band + 1]))
        drawn = sorted(of_different_blocks(random.permutation(inside)), key=lambda place: -firing.values[place])
        found += [_example(firing, place, band, rank) for rank, place in enumerate(drawn)]
    return found


def _patterns(latent: int) -> dict[str, Any]:
    """Of every third latent: its token, its token after any at a block's start, and one that is never right."""
    if latent % 3 or latent in DEAD or latent % 8 > 3:
        return {}
    token, wrong = rule_token(latent), rule_token(latent + 1)
    shown = {each: token_text(each).replace("\n", "⏎").replace(" ", "␣") for each in (token, wrong)}
    rows = [
        {"text": shown[token], "tokens": [token], "at_start": False, "activation": 0.184},
        {"text": f"⟨start⟩ · {shown[token]}", "tokens": [None, token], "at_start": True, "activation": 0.071},
        {"text": " · ".join([shown[wrong]] * 2), "tokens": [wrong, None, wrong], "at_start": False, "activation": 0.03},
    ]
    random = {"precision": 0.71, "recall": 0.26, "f1": 0.38, "patterns": rows}
    return {"random": random, "top": {"precision": None, "recall": 0.013, "f1": None, "patterns": rows[:1]}}


def _explanation(latent: int) -> dict[str, Any] | None:
    if latent % 5 or latent in DEAD:
        return None
    token = token_text(rule_token(latent)).strip() or "that begins a line"
    text = f"The token {token}, most of all in the body of a method."
    return {"text": text, "precision": 0.82, "recall": 0.44, "f1": 0.57}


@cache
def label(latent: int) -> str:
    if explained := _explanation(latent):
        return explained["text"][:80]
    shown = [each["text"].replace(" ", "␣").replace("\n", "⏎") for each in _fires_on(latent)[:3]]
    return " · ".join(shown) or "never fires"


@cache
def _similarities(kind: str) -> np.ndarray:
    length = len(corpus().tokens)
    rows = np.zeros((RULES, length if kind == "firing" else int(corpus().tokens.max()) + 1), dtype=np.float32)
    for latent in range(RULES):
        firing = firings(latent)
        if kind == "firing":
            rows[latent, firing.positions] = 1
        else:
            np.add.at(rows[latent], corpus().tokens[firing.positions], firing.values)
    rows /= np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True))
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    return cosines if kind == "firing" else 0.8 * cosines


def neighbours(latent: int, kind: str, count: int = 8) -> list[dict[str, Any]]:
    row = _similarities(kind)[latent]
    near = [int(other) for other in np.argsort(-row)[:count] if row[other] > 0]
    return [{"latent": other, "similarity": float(row[other]), "label": label(other)} for other in near]


@cache
def summary(latent: int) -> dict[str, Any]:
    """What a record begins with, and what is searched; the rest is made for the latent that is opened."""
    positions, values = firings(latent)
    fires = len(positions) > 0
    fires_on, (promotes, suppresses) = _fires_on(latent), _effects(latent)
    return {
        "latent": latent,
        "label": label(latent),
        "fired": len(positions),
        "density": len(positions) / len(corpus().tokens),
        "mean": float(values.mean()) if fires else None,
        "largest": float(values.max()) if fires else None,
        "quantiles": [float(each) for each in np.quantile(values, BANDS)] if fires else None,
        "histogram": [int(each) for each in np.histogram(values, HISTOGRAM_BINS, (0, float(values.max())))[0]]
        if fires
        else None,
        "encoder_cosine": 0.6 + 0.35 * (latent * 37 % 101) / 101,
        "nearest_cosine": float(_similarities("decoder")[latent].max()) if fires else 0.21,
        "top_token_share": fires_on[0]["share"] if fires else None,
        "fires_on": fires_on,
        "promotes": promotes,
        "suppresses": suppresses,
        "patterns": _patterns(latent),
        "explanation": _explanation(latent),
        "ablation": {"sparsity": 0.0517} if latent % 2 == 0 and fires else None,
    }


@cache
def record(latent: int) -> dict[str, Any]:
    """A whole record of ``GET api/latents/{i}``."""
    near = {kind: neighbours(latent, kind) for kind in ("decoder", "firing")}
    return summary(latent) | {"examples": _examples(latent), "neighbours": near}
