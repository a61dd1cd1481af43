"""A small index with awkward content, and the rows that it was made of, to compute by hand what should come of it."""

import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monosem.viewer.schema import (
    ACTIVATIONS,
    BANDS,
    COUNTS,
    DECODER,
    FIRING,
    FORMAT_VERSION,
    HISTOGRAM_BINS,
    QUANTILES,
    TOKENS,
    TOP,
    create_indices,
    create_tables,
)

N_LATENTS = 230
DEAD = (0, 7, 100, 229)
EXPLAINED_DEAD = 7
BARE = 5
"""A latent that fires, and of which nothing else is known."""
BLOCKS, LENGTH = 40, 12

HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "\u202egnp.exe",
    "nul\0inside",
    "\0",
    '"quotes\' and \\ backslash"',
    "x" * 10_000,
    "\ufffe\uffff",
    "𝔘𝔫𝔦",
    "👩‍👩‍👧",
    "100%",
    "under_score",
    "' OR 1=1 --",
    "",
    "\n\n\n\n\n",
    "\t",
    " ",
    "⟨0xE2⟩",
    "ÜBER",
    "straße",
]
WORDS = ["import", " import", "Import", " imported", "reimport", "self", " self", "elf", "e", " e", "the", " the"]
VOCABULARY = [*HOSTILE, *WORDS, *(f"w{number}" for number in range(30))]

Row = tuple[Any, ...]


class Made(NamedTuple):
    """An index, and its tables as lists of rows."""

    path: Path
    tables: dict[str, list[Row]]

    def of(self, table: str, latent: int) -> list[Row]:
        """The rows of a latent, as they were inserted."""
        return [row for row in self.tables[table] if row[0] == latent]


def make_library(path: Path, name: str = "made", n_latents: int = N_LATENTS, seed: int = 0) -> Made:
    """Write an index."""
    tables = _rows(np.random.default_rng(seed), n_latents)
    tables["meta"] = [(key, json.dumps(value)) for key, value in _meta(name, n_latents, tables).items()]
    connection = sqlite3.connect(path)
    create_tables(connection)
    for table, rows in tables.items():
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    create_indices(connection)
    connection.commit()
    connection.close()
    return Made(path, tables)


def _meta(name: str, n_latents: int, tables: dict[str, list[Row]]) -> dict[str, Any]:
    densities = [row[2] for row in tables["latents"] if row[2] > 0]
    counts, edges = np.histogram(np.log10(densities), bins=6)
    run = {
        "name": name,
        "architecture": "topk",
        "n_latents": n_latents,
        "d_model": 16,
        "k": 4,
        "preprocess": "unit_norm",
        "subject": "tiny",
        "revision": None,
        "hookpoints": ["transformer.h.1"],
        "target": None,
        "training": {"tokens": 1000, "seed": 0},
    }
    index = {"tokens": 440, "blocks": BLOCKS, "context_length": LENGTH, "text_start": 0}
    index |= {"split": "held_out", "documents": 3}
    metrics = [{"name": "normalized_mse", "value": 0.25, "low": 0.2, "high": None}]
    density = {"edges": edges.tolist(), "counts": counts.tolist(), "dead": n_latents - len(densities)}
    return {
        "format_version": FORMAT_VERSION,
        "identity": "made",
        "run": run,
        "index": index,
        "metrics": metrics,
        "density": density,
    }


def _rows(generator: np.random.Generator, n_latents: int) -> dict[str, list[Row]]:
    tokens = generator.integers(0, len(VOCABULARY) + 1, (BLOCKS, LENGTH))  # the last is not in the vocabulary
    rows: dict[str, list[Row]] = {
        "vocabulary": list(enumerate(VOCABULARY)),
        "documents": [(0, "a.py"), (1, "<b>.py"), (2, "c\u202e.py")],
        "blocks": [
            (block, block % 3, block * LENGTH, tokens[block].astype(TOKENS).tobytes()) for block in range(BLOCKS)
        ],
        "latents": [],
        "examples": [],
        "fires_on": [],
        "logit_effects": [],
        "neighbours": [],
        "patterns": [],
        "pattern_scores": [],
        "explanations": [(EXPLAINED_DEAD, "Nothing: it is 100% dead", None, None, None)],
        "ablations": [],
    }
    for latent in range(n_latents):
        if latent in DEAD:
            rows["latents"].append((latent, 0, 0.0, *[None] * 4, 0.5, 0.25, None))
            continue
        _living(rows, generator, latent, n_latents)
    return rows


def _living(rows: dict[str, list[Row]], generator: np.random.Generator, latent: int, n_latents: int) -> None:
    fired = int(generator.integers(1, 60))
    values = np.sort(generator.random(6).astype(QUANTILES))
    histogram = generator.integers(0, 9, HISTOGRAM_BINS).astype(COUNTS)
    largest = float(values[-1])
    rows["latents"].append(
        (
            latent,
            fired,
            fired / 440,
            float(values.mean()),
            largest,
            values.tobytes(),
            histogram.tobytes(),
            None if latent % 3 else float(generator.uniform(-1, 1)),
            float(generator.random()),
            float("inf") if latent == 12 else float(generator.random()),
        )
    )
    if latent == BARE:
        return
    _of_tokens(rows, generator, latent)
    for band, rank in [(TOP, 0), (TOP, 1), *((band, 0) for band in range(len(BANDS) - 1))]:
        active = np.zeros(2, ACTIVATIONS)
        active["position"], active["value"] = [3, 8], generator.random(2)
        block = int(generator.integers(0, BLOCKS))
        rows["examples"].append((latent, band, rank, block, 8, float(active["value"][1]), active.tobytes()))
    for kind in (DECODER, FIRING):
        others = generator.permutation(n_latents)[:6].tolist()
        similarities = np.sort(generator.random(6))[::-1].tolist()
        pairs = [(other, similarity) for other, similarity in zip(others, similarities, strict=True) if other != latent]
        rows["neighbours"] += [(latent, kind, rank, *pair) for rank, pair in enumerate(pairs)]
    if latent % 10 == 1:
        word = VOCABULARY[int(generator.integers(0, len(VOCABULARY)))][:30].replace("\0", "\\x00")
        for rank, text in enumerate((f"{word} · end", f"{latent}% of a_b \\ IMPORT")):
            rows["patterns"].append((latent, "random", rank, text, "[1, null, 2]", rank, 0.5 - rank / 4))
        rows["pattern_scores"].append((latent, "random", 0.5, None, 0.25))
    if latent % 10 == 2:
        rows["pattern_scores"].append((latent, "top", None, None, None))
    if latent % 9 == 1:
        rows["explanations"].append((latent, f"Fires on <b>imports</b> of {latent} things. " * 3, 0.5, 0.75, 0.6))
    if latent % 20 == 3:
        rows["ablations"].append((latent, json.dumps({"kl": 0.125, "text": "</script>"})))


def _of_tokens(rows: dict[str, list[Row]], generator: np.random.Generator, latent: int) -> None:
    tokens = generator.permutation(len(VOCABULARY)).tolist()
    shares = np.sort(generator.dirichlet(np.ones(5)))[::-1].tolist()
    rows["fires_on"] += [
        (latent, rank, token, rank + 2, 1 / (rank + 1), share)
        for rank, (token, share) in enumerate(zip(tokens[: 1 + latent % 5], shares, strict=False))
    ]
    effects = np.sort(generator.exponential(size=7))[::-1].tolist()
    chosen = tokens[20:32]
    promoted = [(latent, rank, chosen[rank], effects[rank]) for rank in range(6)]
    suppressed = [(latent, -rank, chosen[-rank], -effects[rank]) for rank in range(1, 7)]
    rows["logit_effects"] += promoted + suppressed
