"""What the API answers, canned: every route of it, over made-up latents, so that the pages need no model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pages_hostile import HOSTILE, hostile
from pages_latents import DEAD, RULES, firings, label, neighbours, record, rule_token, summary
from pages_text import CONTEXT, corpus, token_text, tokenizer

from monosem.viewer.schema import BANDS

CLAIMED = 4096
OTHER = "topk-16384-32"
METRICS = {
    "normalized_mse": (0.15275332335469774, 0.14134762612005403, 0.16602144633657903),
    "l0": (32.0, 32.0, 32.0),
    "dead_share": (0.00625, 0.0046, 0.0079),
    "cross_entropy": (2.7983979459711943, 2.39598509011311, 3.1061256582020977),
    "cross_entropy_reconstruction": (3.039491765550235, 2.599114104558061, 3.376635618661002),
    "kl_reconstruction": (0.2791873141491329, 0.23790245251388298, 0.31169142025197627),
    "cross_entropy_zero_ablation": (8.576089651262551, 8.243787248788951, 8.831122271277072),
    "kl_zero_ablation": (5.911786555071158, 5.769059926271516, 6.1017652502407955),
    "cross_entropy_mean_ablation": (8.154825290891921, 8.00602624425478, 8.32561494465157),
    "kl_mean_ablation": (5.561388603220851, 5.1829556776312184, 6.039085279458356),
    "cross_entropy_increase": (0.23196290519412077, 0.20731042367657984, 0.2523234896060287),
    "loss_recovered_zero_ablation": (0.9597884266800505, 0.9557700334888106, 0.9646978966463705),
    "loss_recovered_mean_ablation": (0.9566205262402337, 0.94862663732436, 0.9645099572402432),
    "loss_recovered_resample_ablation": (0.9729976790524201, 0.9697537290243142, 0.9767222059887852),
    "compute_equivalent": (0.37349650132725193, None, None),
    "probe_loss": (0.430499734362064, 0.4105631339196286, 0.4390534544691896),
    "probe_accuracy": (0.7984306225640324, 0.7939199695713862, 0.8082927484756168),
    "n2g_precision_random": (0.692021289064769, 0.6440249022811506, 0.7370480794931888),
    "n2g_recall_random": (0.2592374960513236, 0.22174046736876726, 0.3005281651418152),
    "n2g_f1_random": (0.25372955668133107, 0.22148727851629868, 0.28612299459978374),
    "n2g_precision_top": (0.8118992758369314, 0.7640555187593275, 0.8572390905459508),
    "n2g_recall_top": (0.1659482559415237, 0.13122975557664865, 0.2025786575662644),
    "n2g_f1_top": (0.1783643939811862, 0.15224841593769914, 0.20878106886638617),
    "ablation_sparsity_latents": (0.07635630141633185, 0.07162216016145576, 0.08231102673522274),
    "ablation_own_sparsity_latents": (0.6194603535827878, 0.6173550525576973, 0.6214417968310127),
    "ablation_sparsity_channels": (0.07848506375631817, 0.0734972463983921, 0.08351621498795296),
    "ablation_sparsity_directions": (0.07731209394077226, 0.07188479036779472, 0.08338802024229587),
    "normalized_mse_refined": (0.1421946683020525, 0.13168004343881134, 0.15452371777660484),
    "ratio_of_means": (1.0455775137043255, 1.0433873979734163, 1.0472171365776395),
    "normalized_mse_k_1": (0.789336904220011, 0.7773519324447097, 0.8148551448432373),
    "normalized_mse_k_8": (0.35725805353161405, 0.3409730699096642, 0.3788287),
    "normalized_mse_k_64": (0.12002253904810689, 0.1113344240682407, 0.1309250709363993),
    "twin_share": (0.0, None, None),
    "alignment": (0.8396142299170606, None, None),
    "a_metric_of_tomorrow": (0.5, 0.4, 0.6),
    "silent_share": (None, None, None),
}
DENSITY = [0, 0, 0, 0, 0, 4, 9, 21, 160, 643, 990, 1148, 487, 231, 176, 194, 7, 0]


class RefusedError(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def run_record(**changes: Any) -> dict[str, Any]:
    told = {
        "run": {
            "name": "topk-4096-32",
            "architecture": "topk",
            "n_latents": CLAIMED,
            "d_model": 256,
            "k": 32,
            "preprocess": "unit_norm",
            "subject": "builtin",
            "revision": "7e2d4cb859f9126c29b8bb28bf834701",
            "hookpoints": ["transformer.h.4"],
            "target": None,
            "training": {"tokens": 4999168, "seed": 0, "loss": 0.1494378, "l0": 32.0, "dead_share": 0.0063},
        },
        "index": {
            "tokens": 2_000_128,
            "blocks": 31_748,
            "context_length": CONTEXT,
            "text_start": 1,
            "split": "held_out",
            "documents": 145,
        },
        "metrics": [{"name": name, "value": v, "low": low, "high": high} for name, (v, low, high) in METRICS.items()],
        "density": {
            "edges": [-5.301 + i * math.log10(2) for i in range(len(DENSITY) + 1)],
            "counts": DENSITY,
            "dead": CLAIMED - sum(DENSITY),
        },
        "bands": list(BANDS),
        "with": {"patterns": 1365, "explanations": 812, "ablations": 200},
        "can": {"prompt": True, "steer": True, "compare": OTHER},
    }
    return told | changes


def latent_record(latent: int) -> dict[str, Any]:
    if not 0 <= latent < CLAIMED:
        raise RefusedError(404, f"latent={latent} is not one of 0 … {CLAIMED - 1}; give a number below {CLAIMED}.")
    found = record(latent % RULES) | {"latent": latent}
    return hostile(found) if latent == HOSTILE else found


def scatter() -> dict[str, Any]:
    columns = ("density", "mean", "largest", "encoder_cosine", "nearest_cosine", "top_token_share")
    living = [latent for latent in range(CLAIMED) if latent % RULES not in DEAD]
    random = np.random.default_rng(0)
    told: dict[str, Any] = {"of": len(living), "latent": living}
    for name in columns:
        noise = np.exp((0.6 if name == "density" else 0.08) * random.standard_normal(len(living)))
        values = np.array([summary(latent % RULES)[name] for latent in living]) * noise
        told[name] = [float(each) for each in (np.minimum(values, 1) if name != "mean" else values)]
    return told


def _token_matches(kind: str, wanted: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = of["fires_on" if kind == "fires" else kind]
    for row in rows[:5]:
        if wanted.lower() in row["text"].lower():
            return {"kind": kind, "text": row["text"], "value": row["share" if kind == "fires" else "effect"]}
    return None


def _why(query: Mapping[str, str], of: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Why a latent is found; None where a condition does not hold."""
    found: list[dict[str, Any] | None] = [
        _token_matches(kind, query[kind], of) for kind in ("fires", "promotes", "suppresses") if query.get(kind)
    ]
    if wanted := query.get("pattern"):
        texts = [each["text"] for kind in of["patterns"].values() for each in kind["patterns"]]
        text = next((text for text in texts if wanted.lower() in text.lower()), None)
        found.append(None if text is None else {"kind": "pattern", "text": text, "value": None})
    if wanted := query.get("explanation"):
        text = (of["explanation"] or {"text": ""})["text"]
        found.append({"kind": "explanation", "text": text, "value": None} if wanted.lower() in text.lower() else None)
    if like := query.get("like"):
        near = {each["latent"]: each["similarity"] for each in neighbours(int(like) % RULES, "decoder", 20)}
        is_near = of["latent"] in near
        found.append({"kind": "like", "text": like, "value": near[of["latent"]]} if is_near else None)
    low, high = float(query.get("low") or 0), float(query.get("high") or 1)
    in_range = low <= of["density"] <= high
    return None if None in found or not in_range else [each for each in found if each is not None]


def search(query: Mapping[str, str]) -> dict[str, Any]:
    if query.get("like") and not query["like"].isdigit():
        raise RefusedError(400, f"like={query['like']} is no latent's number; give one from 0 to {CLAIMED - 1}.")
    summaries = [hostile(summary(i)) if i == HOSTILE else summary(i) for i in range(RULES)]
    rows = [(of, why) for of in summaries if (why := _why(query, of)) is not None]
    orders: dict[str, Callable[[Any], float]] = {
        "match": lambda row: -abs(row[1][0]["value"] or 0) if row[1] else 0,
        "density": lambda row: -row[0]["density"],
        "rare": lambda row: row[0]["density"],
        "largest": lambda row: -(row[0]["largest"] or 0),
        "number": lambda row: row[0]["latent"],
    }
    rows.sort(key=orders[query.get("order") or "match"])
    offset, limit = int(query.get("offset") or 0), int(query.get("limit") or 50)
    told = [
        {key: of[key] for key in ("latent", "label", "density", "largest")} | {"why": why}
        for of, why in rows[offset : offset + limit]
    ]
    return {"latents": told, "more": len(rows) > offset + limit}


def prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    text = body["text"]
    if len(text) > 5000:
        raise RefusedError(413, f"text of {len(text)} characters is longer than 5000; send less.")
    told, seen = [], set()
    for place, token in enumerate(tokenizer().encode(text, add_special_tokens=False).ids):
        found = []
        for latent in range(RULES):
            speaks_of = latent % 8 in (5, 7) and (token * 31 + latent) % 19 == 0
            if latent not in DEAD and (rule_token(latent) == token or speaks_of):
                share = 0.3 + 0.7 * ((place * 7 + latent) % 10) / 9
                found.append([latent, float(firings(latent).values.max()) * share])
        found.sort(key=lambda pair: -pair[1])
        seen |= {latent for latent, _ in found}
        told.append({"id": token, "text": token_text(token), "latents": found[:32]})
    keys = ("label", "density", "largest")
    return {"tokens": told, "latents": {str(i): {key: summary(i)[key] for key in keys} for i in sorted(seen)}}


def steer(body: Mapping[str, Any]) -> dict[str, Any]:
    if not 0 < body["temperature"] <= 5:
        raise RefusedError(400, f"temperature={body['temperature']} is not between 0 and 5; give one such as 1.")
    line = corpus().tokens
    ids = tokenizer().encode(body["text"], add_special_tokens=False).ids or [0]
    after_last = line[np.minimum(np.flatnonzero(line == ids[-1]) + 1, len(line) - 1)]
    logits = np.log(np.bincount(after_last, minlength=4096) + 0.02 * np.bincount(line, minlength=4096) + 1e-3)
    steered = logits.copy()
    for each in body["latents"]:
        amount = -1.0 if each["how"] == "ablate" else each["strength"]
        for row in summary(each["latent"] % RULES)["promotes"]:
            steered[row["token"]] += 0.2 * amount * row["effect"]

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values - values.max()) / np.exp(values - values.max()).sum()

    before, after = softmax(logits), softmax(steered)
    shown = np.argsort(-np.maximum(before, after))[:10]
    random = np.random.default_rng(body["seed"])

    def continuations(first: np.ndarray) -> list[list[str]]:
        told = []
        for _ in range(body["samples"]):
            start = int(random.choice(4096, p=first))
            places = np.flatnonzero(line[: -body["length"]] == start)
            at = int(random.choice(places)) if len(places) else 0
            told.append([token_text(int(token)) for token in [start, *line[at + 1 : at + body["length"]]]])
        return told

    return {
        "next": [
            {"token": int(i), "text": token_text(int(i)), "before": float(before[i]), "after": float(after[i])}
            for i in shown
        ],
        "before": continuations(before),
        "after": continuations(after),
    }


def compared(side: str) -> list[dict[str, Any]]:
    """Every latent of a side with its three nearest of the other."""
    told = []
    for latent in range(RULES):
        near = neighbours(latent, "decoder", 3)
        near = [each | {"similarity": min(1.0, each["similarity"] * 1.2)} for each in near]
        number = latent if side == "run" else latent + 8192
        nearest = [each | {"latent": each["latent"] + 8192} for each in near] if side == "run" else near
        told.append(
            {"latent": number, "label": label(latent), "density": summary(latent)["density"], "nearest": nearest}
        )
    return told


def compare(query: Mapping[str, str]) -> dict[str, Any]:
    rows = compared(query.get("side") or "run")
    sign = {"similar": -1, "different": 1, "number": 0}[query.get("order") or "similar"]
    rows.sort(key=lambda row: sign * (row["nearest"][0]["similarity"] if row["nearest"] else 0))
    offset, limit = int(query.get("offset") or 0), int(query.get("limit") or 50)
    told = {"run": "topk-4096-32", "other": OTHER, "of": len(rows), "latents": rows[offset : offset + limit]}
    return told | {"more": len(rows) > offset + limit}


def answer(path: str, query: Mapping[str, str], body: Mapping[str, Any] | None) -> dict[str, Any]:
    """A route's answer.

    Raises:
        RefusedError: as the API refuses.
    """
    match path.strip("/").split("/"):
        case ["api", "run"]:
            return run_record()
        case ["api", "scatter"]:
            return scatter()
        case ["api", "latents", number]:
            return latent_record(int(number))
        case ["api", "search"]:
            return search(query)
        case ["api", "prompt"] if body is not None:
            return prompt(body)
        case ["api", "steer"] if body is not None:
            return steer(body)
        case ["api", "compare"]:
            return compare(query)
    raise RefusedError(404, f"{path} is no route of the viewer.")
