"""Finding latents: by what they fire on, promote or suppress, by pattern, explanation, likeness and density.

A condition's matches are read whole where they are few, and what several such conditions have in common is found at
once. Of a condition that very many latents meet (a single letter), each candidate is asked instead. So nothing here
reads a whole table of a large dictionary, but for patterns and explanations, of which there are as many as an
evaluation made, and the order by largest activation where no condition leaves few latents.
"""

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from monosem.errors import UserError
from monosem.viewer.records import IN_LIST, finite, labels
from monosem.viewer.schema import DECODER
from monosem.viewer.vocabulary import INSIDE, Vocabulary

Record = dict[str, Any]

FEW = 5000
"""Rows up to which a condition's matches are read whole."""
SEARCH_CHARACTERS = 200
"""Of a text that is searched for."""
SEARCH_LIMIT = 100
"""Latents in one answer."""
LARGEST_NUMBER = 2**31
"""No latent or offset reaches it."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What latents are searched for; conditions left out do not count, the others must all be met."""

    fires: str = ""
    """Text in a token that it fires on."""
    promotes: str = ""
    """Text in a token that it promotes."""
    suppresses: str = ""
    """Text in a token that it suppresses."""
    pattern: str = ""
    """Text in one of its N2G patterns; of letters only a … z are found in capitals too, as in explanations."""
    explanation: str = ""
    """Text in its explanation."""
    like: int | None = None
    """A latent that it is near to, by the cosine of decoder rows."""
    low: float | None = None
    """Least density."""
    high: float | None = None
    """Largest density."""
    order: Literal["match", "density", "rare", "largest", "number"] = "match"
    """Best match first (a text that is the whole token, that begins it, that is in it; then the strongest; without a
    match by number); densest; rarest of those that fire; by largest activation; by number."""
    offset: int = 0
    """Latents passed over."""
    limit: int = 50
    """Latents in the answer."""

    def __post_init__(self) -> None:
        for name in ("fires", "promotes", "suppresses", "pattern", "explanation"):
            require_text(name, getattr(self, name))
        for name in ("pattern", "explanation"):
            if "\0" in getattr(self, name):
                raise UserError(f"{name} holds a NUL character, which no {name} does; leave it out.")
        for name in ("low", "high"):
            density = getattr(self, name)
            if density is not None and not 0 <= density <= 1:
                raise UserError(f"{name}={density} is no density; give a number from 0 to 1.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"low={self.low:g} exceeds high={self.high:g}; lower it.")
        require_between("like", 0 if self.like is None else self.like, 0, LARGEST_NUMBER)
        require_between("offset", self.offset, 0, LARGEST_NUMBER)
        require_between("limit", self.limit, 1, SEARCH_LIMIT)


def require_text(name: str, text: str) -> None:
    """Refuse a text that is too long to search for.

    Raises:
        UserError: it is.
    """
    if len(text) > SEARCH_CHARACTERS:
        raise UserError(f"{name} has {len(text):,} characters and may have {SEARCH_CHARACTERS}; shorten it.")


def require_between(name: str, value: float | int, low: float | int, high: float | int) -> None:
    """Refuse a number out of range.

    Raises:
        UserError: it is, or is no number.
    """
    if not low <= value <= high:
        raise UserError(f"{name}={value} is not from {low:,} to {high:,}; give one in that range.")


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
    candidates, asked = _candidates(connection, conditions, query.order)
    rows = _page(connection, query, candidates, asked)
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


def _candidates(
    connection: sqlite3.Connection, conditions: list[_Condition], order: str
) -> tuple[list[int] | None, list[_Condition]]:
    """The latents that may meet all conditions, best match first, and the conditions that they must still be asked.

    None: any latent may.
    """
    if not conditions:
        return None, []
    read = {condition.kind: _first_rows(connection, condition) for condition in conditions}
    few = [condition for condition in conditions if len(read[condition.kind]) <= FEW]
    if few:
        best = [_best_hits(condition, read[condition.kind]) for condition in few]
        rarest = min(best, key=len)
        shared = [latent for latent in rarest if all(latent in other for other in best)]
        asked = [condition for condition in conditions if condition not in few]
    elif order == "match":
        # Very many latents meet each condition. Those of the first one's best tokens come first.
        rarest = _best_hits(conditions[0], read[conditions[0].kind])
        shared, asked = list(rarest), conditions[1:]
    else:
        return None, conditions
    return sorted(shared, key=lambda latent: (rarest[latent][:2], latent)), asked


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


def _page(
    connection: sqlite3.Connection, query: Query, candidates: list[int] | None, asked: list[_Condition]
) -> list[sqlite3.Row]:
    """The rows of the answer, and one more if there are more."""
    parameters: dict[str, Any] = {"offset": query.offset, "limit": query.limit + 1, "candidates": None}
    where = ["TRUE"]
    for name, sign in (("low", ">="), ("high", "<=")):
        if getattr(query, name) is not None:
            where.append(f"density {sign} :{name}")
            parameters[name] = getattr(query, name)
    if query.order == "rare" and query.high != 0:
        where.append("density > 0")
    for condition in asked:
        where.append(f"EXISTS ({condition.holds} AND latent = latents.latent)")
        parameters |= condition.parameters
    source, order = "latents", _ORDERS.get(query.order, "latent")
    if candidates is not None:
        source = "json_each(:candidates) AS candidate CROSS JOIN latents ON latents.latent = candidate.value"
        parameters["candidates"] = json.dumps(candidates)
        order = _ORDERS.get(query.order, "candidate.key")
    return connection.execute(
        f"""
        SELECT latents.latent, density, largest FROM {source} WHERE {" AND ".join(where)}
        ORDER BY {order} LIMIT :limit OFFSET :offset
        """,
        parameters,
    ).fetchall()
