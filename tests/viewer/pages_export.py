"""The canned records as the files of an exported site."""

import json
from pathlib import Path
from typing import Any

from pages_answers import compared, latent_record, run_record, scatter
from pages_hostile import HOSTILE, hostile
from pages_latents import RULES, neighbours, summary

LATENTS_A_FILE = 100
SEARCHED_A_FILE = 50
"""Fewer than in a real export, so that a search goes through several files."""


def _searched(latent: int) -> dict[str, Any]:
    of = hostile(summary(latent)) if latent == HOSTILE else summary(latent)
    return {key: of[key] for key in ("latent", "label", "density", "largest")} | {
        "fires": [[row["text"], row["share"]] for row in of["fires_on"][:5]],
        "promotes": [[row["text"], row["effect"]] for row in of["promotes"][:5]],
        "suppresses": [[row["text"], row["effect"]] for row in of["suppresses"][:5]],
        "patterns": [each["text"] for kind in of["patterns"].values() for each in kind["patterns"]],
        "explanation": of["explanation"]["text"] if of["explanation"] else None,
        "like": [[each["latent"], each["similarity"]] for each in neighbours(latent, "decoder", 5)],
    }


def _compact(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Records whose contexts name tokens by number, with the texts of these once."""
    examples = [example for record in records for example in record["examples"]]
    pairs = {pair for example in examples for pair in zip(example["ids"], example["texts"], strict=True)}
    assert len(dict(pairs)) == len(pairs), "a token has one text"
    without = [
        record | {"examples": [{key: each[key] for key in each if key != "texts"} for each in record["examples"]]}
        for record in records
    ]
    return {"vocabulary": dict(pairs), "latents": without}


def _write(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")


def export(directory: Path) -> None:
    """Make an exported site of the static files in a directory."""
    index = directory / "index.html"
    live, static = (f'<meta name="monosem-source" content="{kind}">' for kind in ("live", "static"))
    text = index.read_text(encoding="utf-8")
    assert text.count(live) == 1
    index.write_text(text.replace(live, static), encoding="utf-8")
    run = run_record()
    run["run"]["n_latents"] = RULES
    run["can"] |= {"prompt": False, "steer": False}
    data = directory / "data"
    _write(data / "run.json", run)
    columns = scatter()
    kept = [i for i, latent in enumerate(columns["latent"]) if latent < RULES]
    of_kept = {name: [values[i] for i in kept] for name, values in columns.items() if name != "of"}
    _write(data / "scatter.json", {"of": len(kept), **of_kept})
    for name, size, make in (("latents", LATENTS_A_FILE, latent_record), ("search", SEARCHED_A_FILE, _searched)):
        for number, first in enumerate(range(0, RULES, size)):
            records = [make(latent) for latent in range(first, min(RULES, first + size))]
            held = _compact(records) if name == "latents" else {"latents": records}
            _write(data / name / f"{number}.json", {"first": first, **held})
    files = {"latents": LATENTS_A_FILE, "search": SEARCHED_A_FILE}
    _write(data / "contents.json", {name: {"size": size, "files": -(-RULES // size)} for name, size in files.items()})
    names = {"run": run["run"]["name"], "other": run["can"]["compare"]}
    _write(data / "compare.json", names | {"sides": {side: {"of": RULES, "files": 2} for side in names}})
    for side in names:
        for number, first in enumerate((0, RULES // 2)):
            rows = compared(side)[first : first + RULES // 2]
            _write(data / "compare" / side / f"{number}.json", {"first": first, "latents": rows})
