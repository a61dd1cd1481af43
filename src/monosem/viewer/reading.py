"""Queries of ``viewer.sqlite``: what the pages show, as plain records that JSON can hold."""

import functools
import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from monosem.errors import UserError
from monosem.viewer import records
from monosem.viewer.query import Query, require_text
from monosem.viewer.records import IN_LIST, Record, finite
from monosem.viewer.schema import BANDS, open_index
from monosem.viewer.search import search
from monosem.viewer.vocabulary import Vocabulary

SCATTER_LATENTS = 20_000
FOUND_TOKENS = 20

_META = {"run", "index", "metrics", "density"}
_SCATTER = ("density", "mean", "largest", "encoder_cosine", "nearest_cosine", "top_token_share")


class NotHereError(UserError):
    """What was asked for is not here, though the question is a good one."""


class _Connections(threading.local):
    """A connection for each thread, opened when the thread first asks."""

    def __init__(self, path: Path) -> None:
        self.connection = open_index(path)


class Library:
    """A dictionary of latents, open for reading from any thread."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the index is missing, damaged, or of another version.
        """
        self._connections = _Connections(path)
        try:
            self._meta: dict[str, Any] = {
                row["key"]: json.loads(row["value"]) for row in self._execute("SELECT key, value FROM meta")
            }
            texts = {row["token"]: row["text"] for row in self._execute("SELECT token, text FROM vocabulary")}
            (self.n_latents,) = self._execute("SELECT count(*) FROM latents").fetchone()
            if missing := _META - self._meta.keys():
                raise ValueError(f"it does not say its {min(missing)}")
        except (sqlite3.Error, ValueError) as error:
            raise UserError(
                f"{path} is damaged: {error}; make it again with: monosem view --again {path.parent}"
            ) from error
        self._vocabulary = Vocabulary(texts)

    @property
    def _connection(self) -> sqlite3.Connection:
        try:
            return self._connections.connection
        except UserError as error:  # it was there when the library was opened
            raise sqlite3.OperationalError("the index has gone") from error

    def _execute(self, query: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        return self._connection.execute(query, parameters)

    @property
    def name(self) -> str:
        """The run's."""
        return self._meta["run"]["name"]

    def run(self, *, live: bool = False, compare: str | None = None) -> Record:
        """The run's card.

        Args:
            live: whether prompts and steering are at hand.
            compare: the name of the run that it is compared with.
        """
        can = {"prompt": live, "steer": live, "compare": compare}
        shown = {name: self._meta[name] for name in sorted(_META)}
        return shown | {"bands": list(BANDS), "with": self._parts, "can": can}

    @functools.cached_property
    def _parts(self) -> dict[str, int]:
        """How many latents have patterns, explanations, ablations."""
        tables = {
            "patterns": "(SELECT latent FROM pattern_scores UNION SELECT latent FROM patterns)",
            "explanations": "explanations",
            "ablations": "ablations",
        }
        return {name: self._execute(f"SELECT count(*) FROM {table}").fetchone()[0] for name, table in tables.items()}

    def scatter(self) -> Record:
        """Columns over living latents, evenly drawn by number where they are many; to six digits."""
        return self._scatter

    @functools.cached_property
    def _scatter(self) -> Record:
        living = np.array([row[0] for row in self._execute("SELECT latent FROM latents WHERE fired > 0")], dtype=int)
        count = min(SCATTER_LATENTS, len(living))
        drawn = json.dumps(np.sort(living)[np.arange(count) * len(living) // max(1, count)].tolist())
        query = f"SELECT latent, {', '.join(_SCATTER)} FROM latents WHERE latent {IN_LIST} ORDER BY latent"
        rows = self._execute(query, (drawn,)).fetchall()
        columns = {name: [_to_six_digits(row[name]) for row in rows] for name in _SCATTER}
        return {"of": len(living), "latent": [row["latent"] for row in rows], **columns}

    def latent(self, latent: int) -> Record:
        """All that is known of a latent.

        Raises:
            NotHereError: there is none of this number.
        """
        if not 0 <= latent < self.n_latents:
            raise NotHereError(
                f"latent={latent} is not in this dictionary; its latents are 0 … {self.n_latents - 1:,}."
            )
        return self.latents(latent, latent)[0]

    def latents(self, first: int, last: int) -> list[Record]:
        """The same of the latents ``first … last``."""
        return records.latent_records(self._connection, self._vocabulary, first, last)

    def search_entries(self, first: int, last: int) -> list[Record]:
        """What a search without a server needs to know of the latents ``first … last``."""
        return records.search_entries(self._connection, self._vocabulary, first, last)

    def search(self, query: Query) -> Record:
        """The latents that meet all of a query's conditions."""
        if query.like is not None and query.like >= self.n_latents:
            raise UserError(f"like={query.like} is not in this dictionary; its latents are 0 … {self.n_latents - 1:,}.")
        return search(self._connection, self._vocabulary, query)

    def tokens(self, text: str) -> list[Record]:
        """The tokens that a text is in, exact matches and beginnings first."""
        require_text("text", text)
        found = self._vocabulary.find(text)[:FOUND_TOKENS] if text else []
        return [{"token": each.token, "text": self._vocabulary.text(each.token)} for each in found]

    def texts(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token."""
        return self._vocabulary.texts(tokens)

    def summaries(self, latents: Iterable[int]) -> dict[int, Record]:
        """Label, density and largest activation of each of these latents."""
        return records.summaries(self._connection, self._vocabulary, latents)


def _to_six_digits(value: float | None) -> float | None:
    return None if finite(value) is None else float(f"{value:.6g}")
