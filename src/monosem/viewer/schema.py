"""The tables of ``viewer.sqlite``: everything that the pages show, but for what is computed live.

A block is a piece of text as the subject model read it, BOS included where it has one. A context is stored once, in
``blocks``; examples point into it. Activations are in the latent's own units, as the autoencoder's ``encode`` gives
them. Blobs are little-endian arrays.
"""

import sqlite3
from pathlib import Path

import numpy as np

from monosem.errors import UserError

FORMAT_VERSION = 1
INDEX = "viewer.sqlite"

TOP = -1
"""The ``band`` of a latent's strongest examples; others are drawn from BANDS, by their place there."""
BANDS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Examples are drawn at random between each two of these quantiles of a latent's positive activations."""
HISTOGRAM_BINS = 32
"""Bins of equal width from 0 to the latent's largest activation."""

DECODER, FIRING = "decoder", "firing"
"""Two ways to be near: by the cosine of decoder rows, by firing on the same tokens."""

# A token's place in its block and the latent's activation there, of one example.
ACTIVATIONS = np.dtype([("position", "<u2"), ("value", "<f4")])
COUNTS = np.dtype("<u4")
QUANTILES = np.dtype("<f4")
TOKENS = np.dtype("<u4")

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;  -- values are JSON
CREATE TABLE vocabulary (token INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE documents (document INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE blocks (
    block INTEGER PRIMARY KEY,
    document INTEGER NOT NULL,   -- of its first token of text
    start INTEGER NOT NULL,      -- position in the line of tokens of its first token of text
    tokens BLOB NOT NULL         -- TOKENS
);
CREATE TABLE latents (
    latent INTEGER PRIMARY KEY,
    fired INTEGER NOT NULL,      -- tokens with a positive activation, of the indexed ones
    density REAL NOT NULL,       -- their share
    mean REAL,                   -- of the positive activations; NULL where there are none, and so on
    largest REAL,
    quantiles BLOB,              -- QUANTILES of the positive activations, at BANDS
    histogram BLOB,              -- COUNTS of the positive activations in HISTOGRAM_BINS
    encoder_cosine REAL,         -- of encoder row and decoder row; NULL where they live in different spaces
    nearest_cosine REAL,         -- of its decoder row and the nearest other's
    top_token_share REAL         -- the largest share of the summed activation that falls on one token of the vocabulary
);
CREATE TABLE examples (
    latent INTEGER NOT NULL,
    band INTEGER NOT NULL,       -- TOP, or the place of its lower quantile in BANDS
    rank INTEGER NOT NULL,       -- 0 for the strongest
    block INTEGER NOT NULL,
    position INTEGER NOT NULL,   -- in the block, of the activation that the example was chosen for
    value REAL NOT NULL,         -- that activation
    activations BLOB NOT NULL,   -- ACTIVATIONS: every positive one of the latent in this block
    PRIMARY KEY (latent, band, rank)
) WITHOUT ROWID;
CREATE TABLE fires_on (
    latent INTEGER NOT NULL,
    rank INTEGER NOT NULL,       -- by summed activation
    token INTEGER NOT NULL,
    count INTEGER NOT NULL,      -- tokens of this kind on which it fires
    mean REAL NOT NULL,          -- its mean activation on these
    share REAL NOT NULL,         -- of its summed activation
    PRIMARY KEY (latent, rank)
) WITHOUT ROWID;
CREATE TABLE logit_effects (
    latent INTEGER NOT NULL,
    rank INTEGER NOT NULL,       -- 0, 1, … promoted, strongest first; −1, −2, … suppressed, strongest first
    token INTEGER NOT NULL,
    effect REAL NOT NULL,        -- logits for one unit of the latent's activation
    PRIMARY KEY (latent, rank)
) WITHOUT ROWID;
CREATE TABLE neighbours (
    latent INTEGER NOT NULL,
    kind TEXT NOT NULL,          -- DECODER or FIRING
    rank INTEGER NOT NULL,
    other INTEGER NOT NULL,
    similarity REAL NOT NULL,    -- cosine of decoder rows; or tokens with both / √(tokens with one · with the other)
    PRIMARY KEY (latent, kind, rank)
) WITHOUT ROWID;
CREATE TABLE patterns (          -- N2G's, of the latents that an evaluation explained
    latent INTEGER NOT NULL,
    kind TEXT NOT NULL,          -- built from 'random' or the 'top' examples
    rank INTEGER NOT NULL,
    text TEXT NOT NULL,          -- as a person reads it
    tokens TEXT NOT NULL,        -- JSON: ids, null for any token
    at_start INTEGER NOT NULL,   -- whether it stands at a document's start only
    activation REAL NOT NULL,
    PRIMARY KEY (latent, kind, rank)
) WITHOUT ROWID;
CREATE TABLE pattern_scores (    -- of all patterns of a kind together; NULL where not defined
    latent INTEGER NOT NULL,
    kind TEXT NOT NULL,
    precision REAL, recall REAL, f1 REAL,
    PRIMARY KEY (latent, kind)
) WITHOUT ROWID;
CREATE TABLE explanations (      -- in words, of the latents that an evaluation described
    latent INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    precision REAL, recall REAL, f1 REAL
);
CREATE TABLE ablations (         -- of the latents that an evaluation ablated
    latent INTEGER PRIMARY KEY,
    record TEXT NOT NULL         -- JSON
);
"""

# Made when all rows are there, which is faster.
_INDICES = (
    "CREATE INDEX latents_by_density ON latents (density)",
    "CREATE INDEX latents_by_largest ON latents (largest)",
    "CREATE INDEX fires_on_by_token ON fires_on (token, share DESC)",
    "CREATE INDEX logit_effects_by_token ON logit_effects (token, effect DESC)",
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the empty tables."""
    connection.executescript(_TABLES)


def create_indices(connection: sqlite3.Connection) -> None:
    """Make the indices that searching needs, in the transaction that there is."""
    for statement in _INDICES:
        connection.execute(statement)


def open_index(path: Path) -> sqlite3.Connection:
    """Open an index for reading only; rows come as ``sqlite3.Row``.

    Raises:
        UserError: it is missing, damaged, or of another version.
    """
    if not path.exists():
        raise UserError(f"{path} is not there; make it with: monosem view {path.parent}")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
    except sqlite3.Error as error:
        raise UserError(
            f"{path} is damaged: {error}; make it again with: monosem view --again {path.parent}"
        ) from error
    if found is None or found["value"] != str(FORMAT_VERSION):
        raise UserError(
            f"{path} is of another version of monosem; make it again with: monosem view --again {path.parent}"
        )
    return connection
