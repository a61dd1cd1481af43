"""What the pages show of latents, as plain records, read for a range of latents at once."""

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from monosem.viewer.schema import ACTIVATIONS, COUNTS, DECODER, FIRING, QUANTILES, TOKENS
from monosem.viewer.vocabulary import Vocabulary

Record = dict[str, Any]

LABEL_CHARACTERS = 80
LABEL_TOKENS = 3
LABEL_MARK = " · "
NEVER_FIRES = "never fires"

SEARCH_ENTRIES = 5
"""Tokens and neighbours of a kind in what an exported search knows of a latent."""

IN_LIST = "IN (SELECT value FROM json_each(?))"
"""Of a list of numbers, given as JSON."""


def finite(value: float | None) -> float | None:
    """The number, or None where it is not defined."""
    return value if value is not None and math.isfinite(value) else None


def labels(connection: sqlite3.Connection, vocabulary: Vocabulary, latents: Iterable[int]) -> dict[int, str]:
    """What each latent is called: by its explanation, else by the tokens it fires on most."""
    asked = list(latents)
    wanted = json.dumps(asked)
    explained = connection.execute(f"SELECT latent, text FROM explanations WHERE latent {IN_LIST}", (wanted,))
    named = {row["latent"]: _cut(row["text"]) for row in explained}
    tokens: dict[int, list[str]] = defaultdict(list)
    query = f"SELECT latent, token FROM fires_on WHERE latent {IN_LIST} AND rank < ? ORDER BY latent, rank"
    for row in connection.execute(query, (wanted, LABEL_TOKENS)):
        tokens[row["latent"]].append(vocabulary.name(row["token"]))
    by_tokens = {latent: LABEL_MARK.join(names) for latent, names in tokens.items()}
    return dict.fromkeys(asked, NEVER_FIRES) | by_tokens | named


def _cut(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"


def summaries(connection: sqlite3.Connection, vocabulary: Vocabulary, latents: Iterable[int]) -> dict[int, Record]:
    """Label, density and largest activation of each of these latents."""
    wanted = list(latents)
    named = labels(connection, vocabulary, wanted)
    query = f"SELECT latent, density, largest FROM latents WHERE latent {IN_LIST}"
    rows = connection.execute(query, (json.dumps(wanted),))
    return {
        row["latent"]: {"label": named[row["latent"]], "density": row["density"], "largest": finite(row["largest"])}
        for row in rows
    }


def latent_records(connection: sqlite3.Connection, vocabulary: Vocabulary, first: int, last: int) -> list[Record]:
    """All that is known of the latents ``first … last``."""
    rows = connection.execute("SELECT * FROM latents WHERE latent BETWEEN ? AND ? ORDER BY latent", (first, last))
    numbers = {row["latent"]: _numbers(row) for row in rows}
    named = labels(connection, vocabulary, numbers)
    tables = _Tables(connection, vocabulary, first, last)
    parts: list[tuple[str, dict[int, Any], Any]] = [
        ("fires_on", tables.fires_on(), []),
        ("promotes", tables.effects("rank >= 0", "rank"), []),
        ("suppresses", tables.effects("rank < 0", "-rank"), []),
        ("examples", tables.examples(), []),
        ("neighbours", tables.neighbours(), {DECODER: [], FIRING: []}),
        ("patterns", tables.patterns(), {}),
        ("explanation", tables.explanations(), None),
        ("ablation", tables.ablations(), None),
    ]
    return [
        {"latent": latent, "label": named[latent]}
        | record
        | {name: found.get(latent, missing) for name, found, missing in parts}
        for latent, record in numbers.items()
    ]


def _numbers(row: sqlite3.Row) -> Record:
    quantiles, histogram = row["quantiles"], row["histogram"]
    plain = ("density", "mean", "largest", "encoder_cosine", "nearest_cosine", "top_token_share")
    return {
        "fired": row["fired"],
        **{name: finite(row[name]) for name in plain},
        "quantiles": None if quantiles is None else _floats(np.frombuffer(quantiles, QUANTILES)),
        "histogram": None if histogram is None else np.frombuffer(histogram, COUNTS).tolist(),
    }


def _floats(values: np.ndarray) -> list[float | None]:
    """In as few digits as tell float32 numbers apart."""
    return [finite(float(str(value))) for value in values]


class _Tables:
    """The tables beside ``latents``, each as records by latent, for a range of latents."""

    def __init__(self, connection: sqlite3.Connection, vocabulary: Vocabulary, first: int, last: int) -> None:
        self._connection, self._vocabulary, self._range = connection, vocabulary, (first, last)

    def _rows(self, table: str, order: str, where: str = "TRUE") -> sqlite3.Cursor:
        query = f"SELECT * FROM {table} WHERE latent BETWEEN ? AND ? AND {where} ORDER BY {order}"
        return self._connection.execute(query, self._range)

    def fires_on(self) -> dict[int, list[Record]]:
        found: dict[int, list[Record]] = defaultdict(list)
        for row in self._rows("fires_on", "latent, rank"):
            measured = {"count": row["count"], "mean": finite(row["mean"]), "share": finite(row["share"])}
            found[row["latent"]].append(self._token(row) | measured)
        return found

    def effects(self, which: str, order: str) -> dict[int, list[Record]]:
        """Tokens promoted or suppressed, strongest first."""
        found: dict[int, list[Record]] = defaultdict(list)
        for row in self._rows("logit_effects", f"latent, {order}", which):
            found[row["latent"]].append(self._token(row) | {"effect": finite(row["effect"])})
        return found

    def _token(self, row: sqlite3.Row) -> Record:
        return {"token": row["token"], "text": self._vocabulary.text(row["token"])}

    def examples(self) -> dict[int, list[Record]]:
        rows = self._rows("examples", "latent, band, rank").fetchall()
        blocks = self._blocks({row["block"] for row in rows})
        found: dict[int, list[Record]] = defaultdict(list)
        for row in rows:
            active = np.frombuffer(row["activations"], ACTIVATIONS)
            found[row["latent"]].append(
                {
                    "band": row["band"],
                    "rank": row["rank"],
                    **blocks[row["block"]],
                    "position": row["position"],
                    "value": finite(row["value"]),
                    "activations": list(zip(active["position"].tolist(), _floats(active["value"]), strict=True)),
                }
            )
        return found

    def _blocks(self, numbers: set[int]) -> dict[int, Record]:
        query = f"""
            SELECT block, start, tokens, name FROM blocks LEFT JOIN documents USING (document) WHERE block {IN_LIST}
        """
        found: dict[int, Record] = {}
        for row in self._connection.execute(query, (json.dumps(list(numbers)),)):
            ids = np.frombuffer(row["tokens"], TOKENS).tolist()
            place = {"document": row["name"] or "", "start": row["start"]}
            found[row["block"]] = place | {"ids": ids, "texts": self._vocabulary.texts(ids)}
        return found

    def neighbours(self) -> dict[int, Record]:
        rows = self._rows("neighbours", "latent, kind, rank").fetchall()
        named = labels(self._connection, self._vocabulary, {row["other"] for row in rows})
        found: dict[int, Record] = defaultdict(lambda: {DECODER: [], FIRING: []})
        for row in rows:
            other = {"latent": row["other"], "similarity": finite(row["similarity"]), "label": named[row["other"]]}
            found[row["latent"]][row["kind"]].append(other)
        return found

    def patterns(self) -> dict[int, Record]:
        """By the kind of examples that they were built from; scores without patterns count too."""
        found: dict[int, Record] = defaultdict(dict)
        for row in self._rows("pattern_scores", "latent, kind"):
            found[row["latent"]][row["kind"]] = _scores(row) | {"patterns": []}
        for row in self._rows("patterns", "latent, kind, rank"):
            unscored: Record = {"precision": None, "recall": None, "f1": None, "patterns": []}
            pattern = {
                "text": row["text"],
                "tokens": json.loads(row["tokens"]),
                "at_start": bool(row["at_start"]),
                "activation": finite(row["activation"]),
            }
            found[row["latent"]].setdefault(row["kind"], unscored)["patterns"].append(pattern)
        return found

    def explanations(self) -> dict[int, Record]:
        rows = self._rows("explanations", "latent")
        return {row["latent"]: {"text": row["text"]} | _scores(row) for row in rows}

    def ablations(self) -> dict[int, Record]:
        rows = self._rows("ablations", "latent")
        return {row["latent"]: json.loads(row["record"], parse_constant=lambda _: None) for row in rows}


def _scores(row: sqlite3.Row) -> Record:
    return {name: finite(row[name]) for name in ("precision", "recall", "f1")}


def search_entries(connection: sqlite3.Connection, vocabulary: Vocabulary, first: int, last: int) -> list[Record]:
    """What a search without a server needs to know of the latents ``first … last``."""
    tables = _Tables(connection, vocabulary, first, last)
    few = SEARCH_ENTRIES
    rows = connection.execute("SELECT latent FROM latents WHERE latent BETWEEN ? AND ? ORDER BY latent", (first, last))
    entries: dict[int, Record] = summaries(connection, vocabulary, [row["latent"] for row in rows])
    fires, explained = tables.fires_on(), tables.explanations()
    promotes, suppresses = tables.effects("rank >= 0", "rank"), tables.effects("rank < 0", "-rank")
    patterns, near = tables.patterns(), tables.neighbours()
    for latent, entry in entries.items():
        texts = [each["text"] for kind in patterns.get(latent, {}).values() for each in kind["patterns"]]
        explanation = explained.get(latent)
        entry |= {
            "fires": [[each["text"], each["share"]] for each in fires.get(latent, [])[:few]],
            "promotes": [[each["text"], each["effect"]] for each in promotes.get(latent, [])[:few]],
            "suppresses": [[each["text"], each["effect"]] for each in suppresses.get(latent, [])[:few]],
            "patterns": list(dict.fromkeys(texts)),
            "explanation": explanation and explanation["text"],
            "like": [[each["latent"], each["similarity"]] for each in near[latent][DECODER][:few]],
        }
    return [{"latent": latent} | entries[latent] for latent in sorted(entries)]
