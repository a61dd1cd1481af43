"""Finding latents: by what they fire on, promote or suppress, by pattern, explanation, likeness and density.

A condition's matches are read whole where they are few, and what several such conditions have in common is found at
once. Of a condition that very many latents meet (a single letter) the best matches are read, and other latents are
asked one by one, in order, until there are enough. So a whole table of a large dictionary is read only where broad
conditions together leave next to nothing, or where no condition leaves few latents and they are ordered by largest
activation; and of patterns and explanations, of which there are as many as an evaluation made.
"""

import json
import math
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from monosem.viewer.query import Query
from monosem.viewer.records import IN_LIST, Record, finite, labels
from monosem.viewer.schema import DECODER
from monosem.viewer.vocabulary import INSIDE, Vocabulary

FEW = 5000
"""Rows up to which a condition's matches are read whole."""


class _Condition(NamedTuple):
    """A condition that rows of a table meet."""

    kind: str
    rows: str
    """SELECT … FROM … WHERE …, of rows with latent, what and value, best tokens first."""
    holds: str
    """SELECT … FROM … WHERE … the same, of the latent ``latents.latent``."""
    parameters: Mapping[str, Any]
    quality: Mapping[int, int] = {}
    """Of tokens, where ``what`` is one."""
    sign: int = 1
    """−1 where the lowest value is the strongest."""


class _Hit(NamedTuple):
    """A row that meets a condition; the smallest is the best."""

    quality: int
    weakness: float
    what: str | int
    value: float | None


def _conditions(query: Query, vocabulary: Vocabulary) -> list[_Condition]:
    tokens = {
        "fires": ("fires_on", "share", "TRUE", 1),
        "promotes": ("logit_effects", "effect", "rank >= 0", 1),
        "suppresses": ("logit_effects", "effect", "rank < 0", -1),
    }
    found = [_token_condition(kind, getattr(query, kind), *table, vocabulary) for kind, table in tokens.items()]
    found += [_text_condition("pattern", query.pattern, "patterns", "activation")]
    found += [_text_condition("explanation", query.explanation, "explanations", "f1")]
    return [condition for condition in (*found, _like_condition(query.like)) if condition is not None]


def _token_condition(
    kind: str, text: str, table: str, value: str, which: str, sign: int, vocabulary: Vocabulary
) -> _Condition | None:
    if not text:
        return None
    found = vocabulary.find(text)
    columns = f"SELECT latent, token AS what, {value} AS value FROM"
    return _Condition(
        kind,
        f"{columns} json_each(:{kind}) AS wanted CROSS JOIN {table} ON token = wanted.value WHERE {which}",
        f"{columns} {table} WHERE {which} AND +token IN (SELECT value FROM json_each(:{kind}))",  # + : by latent
        {kind: json.dumps([each.token for each in found])},
        {each.token: each.quality for each in found},
        sign,
    )


def _text_condition(kind: str, text: str, table: str, value: str) -> _Condition | None:
    if not text:
        return None
    escaped = text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    rows = f"SELECT latent, text AS what, {value} AS value FROM {table} WHERE text LIKE :{kind} ESCAPE '\\'"
    return _Condition(kind, rows, rows, {kind: f"%{escaped}%"})


def _like_condition(like: int | None) -> _Condition | None:
    if like is None:
        return None
    rows = f"""
        SELECT other AS latent, latent AS what, similarity AS value FROM neighbours
        WHERE latent = :like AND kind = '{DECODER}'
    """
    return _Condition("like", rows, f"SELECT * FROM ({rows}) AS near WHERE TRUE", {"like": like})


def search(connection: sqlite3.Connection, vocabulary: Vocabulary, query: Query) -> Record:
    """The latents that meet all conditions, with the best reason for each condition, and whether there are more."""
    conditions = _conditions(query, vocabulary)
    rows = _page(connection, query, _plan(connection, conditions, query.order))
    page = [row["latent"] for row in rows[: query.limit]]
    named = labels(connection, vocabulary, page)
    why: dict[int, list[Record]] = {latent: [] for latent in page}
    for condition in conditions:
        for latent, hit in _hits(connection, condition, page).items():
            text = vocabulary.text(hit.what) if condition.quality and isinstance(hit.what, int) else str(hit.what)
            why[latent].append({"kind": condition.kind, "text": text, "value": finite(hit.value)})
    latents = [
        {
            "latent": row["latent"],
            "label": named[row["latent"]],
            "density": row["density"],
            "largest": finite(row["largest"]),
            "why": why[row["latent"]],
        }
        for row in rows[: query.limit]
    ]
    return {"latents": latents, "more": len(rows) > query.limit}


class _Plan(NamedTuple):
    """How the latents are found."""

    candidates: list[int] | None
    """Those among which they are, or are first, best match first; None: they are among all."""
    asked: list[_Condition]
    """What candidates must still be asked."""
    others: list[_Condition] | None = None
    """What all other latents are asked after the candidates; None: they are not."""


def _plan(connection: sqlite3.Connection, conditions: list[_Condition], order: str) -> _Plan:
    read = {condition.kind: _first_rows(connection, condition) for condition in conditions}
    few = [condition for condition in conditions if len(read[condition.kind]) <= FEW]
    if few:
        best = [_best_hits(condition, read[condition.kind]) for condition in few]
        rarest = min(best, key=len)
        shared = [latent for latent in rarest if all(latent in other for other in best)]
        return _Plan(_ranked(shared, rarest), [condition for condition in conditions if condition not in few])
    if not conditions or order != "match":
        return _Plan(None, conditions)
    best = _best_hits(conditions[0], read[conditions[0].kind])
    return _Plan(_ranked(list(best), best), conditions[1:], conditions)


def _ranked(latents: list[int], hits: dict[int, _Hit]) -> list[int]:
    return sorted(latents, key=lambda latent: (hits[latent][:2], latent))


def _first_rows(connection: sqlite3.Connection, condition: _Condition) -> list[sqlite3.Row]:
    return connection.execute(f"{condition.rows} LIMIT {FEW + 1}", condition.parameters).fetchall()


def _best_hits(condition: _Condition, rows: list[sqlite3.Row]) -> dict[int, _Hit]:
    """The best row of each latent."""
    best: dict[int, _Hit] = {}
    for row in rows:
        value = row["value"]
        strength = -math.inf if value is None else condition.sign * value
        quality = condition.quality.get(row["what"], INSIDE)
        hit = _Hit(quality, -strength, row["what"], value)
        known = best.get(row["latent"])
        if known is None or hit[:2] < known[:2]:
            best[row["latent"]] = hit
    return best


def _hits(connection: sqlite3.Connection, condition: _Condition, latents: list[int]) -> dict[int, _Hit]:
    """The best row of each of these latents."""
    query = f"SELECT * FROM ({condition.holds}) WHERE latent {IN_LIST.replace('?', ':latents')}"
    rows = connection.execute(query, {**condition.parameters, "latents": json.dumps(latents)}).fetchall()
    return _best_hits(condition, rows)


_ORDERS = {
    "density": "density DESC, latent",
    "rare": "density, latent",
    "largest": "largest DESC, latent",
    "number": "latent",
}


def _page(connection: sqlite3.Connection, query: Query, plan: _Plan) -> list[sqlite3.Row]:
    """The rows of the answer, and one more if there are more."""
    asked = _Asked(query, plan.asked, plan.candidates, _ORDERS.get(query.order))
    rows = asked.rows(connection, query.offset, query.limit + 1)
    if plan.others is None or len(rows) > query.limit:
        return rows
    before = max(0, query.offset - asked.count(connection))
    others = _Asked(query, plan.others, None, None, passed_over=plan.candidates)
    return rows + others.rows(connection, before, query.limit + 1 - len(rows))


class _Asked:
    """A query of the latents that meet conditions, among candidates or all."""

    def __init__(
        self,
        query: Query,
        conditions: list[_Condition],
        candidates: list[int] | None,
        order: str | None,
        passed_over: list[int] | None = None,
    ) -> None:
        """
        Args:
            order: by default that of the candidates, or by number.
        """
        self._source, self._order = "latents", order or "latent"
        self._parameters: dict[str, Any] = {"low": query.low, "high": query.high, "listed": None}
        if candidates is not None:
            self._source = "json_each(:listed) AS candidate CROSS JOIN latents ON latents.latent = candidate.value"
            self._order = order or "candidate.key"
            self._parameters["listed"] = json.dumps(candidates)
        where = ["TRUE"]
        where += ["density >= :low"] * (query.low is not None) + ["density <= :high"] * (query.high is not None)
        where += ["density > 0"] * (query.order == "rare" and query.high != 0)
        if passed_over is not None:
            where.append("latents.latent NOT IN (SELECT value FROM json_each(:listed))")
            self._parameters["listed"] = json.dumps(passed_over)
        for condition in conditions:
            where.append(f"EXISTS ({condition.holds} AND latent = latents.latent)")
            self._parameters |= condition.parameters
        self._where = " AND ".join(where)

    def count(self, connection: sqlite3.Connection) -> int:
        """How many there are."""
        query = f"SELECT count(*) FROM {self._source} WHERE {self._where}"
        return connection.execute(query, self._parameters).fetchone()[0]

    def rows(self, connection: sqlite3.Connection, offset: int, limit: int) -> list[sqlite3.Row]:
        """Some of them, in order."""
        query = f"""
            SELECT latents.latent, density, largest FROM {self._source} WHERE {self._where}
            ORDER BY {self._order} LIMIT :limit OFFSET :offset
        """
        return connection.execute(query, self._parameters | {"limit": limit, "offset": offset}).fetchall()
