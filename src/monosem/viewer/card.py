"""What an index says beside its latents: the texts that these point into, and a card of the run."""

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from monosem.evaluation.density import Firing, density_histogram
from monosem.runs.config import RunConfig
from monosem.sae.autoencoder import Autoencoder
from monosem.subject.blocks import EvenBlocks
from monosem.subject.model import SubjectModel
from monosem.subject.token_text import token_text
from monosem.viewer.config import IndexConfig
from monosem.viewer.rows import insert
from monosem.viewer.schema import FORMAT_VERSION, TOKENS

# Blocks read at once.
_BLOCKS = 1 << 12


class Material(NamedTuple):
    """What is indexed."""

    config: RunConfig
    settings: IndexConfig
    sae: Autoencoder
    subject: SubjectModel
    blocks: EvenBlocks
    vocabulary: int
    """Tokens that the subject or its tokenizer knows."""


def write_text(connection: sqlite3.Connection, tokenizer: Any, vocabulary: int, blocks: EvenBlocks) -> int:
    """Write the vocabulary, the blocks that an example points into and all documents; how many documents there are."""
    insert(connection, "vocabulary", ((token, token_text(tokenizer, token)) for token in range(vocabulary)))
    shown = [row[0] for row in connection.execute("SELECT DISTINCT block FROM examples ORDER BY block")]
    insert(connection, "blocks", _blocks(blocks, np.array(shown, np.int64)))
    documents = _documents(blocks)
    names = blocks.split.document_names
    insert(connection, "documents", ((document, names[document]) for document in documents.tolist()))
    return len(documents)


def _blocks(blocks: EvenBlocks, shown: Int64[np.ndarray, " shown"]) -> Iterator[tuple[Any, ...]]:
    for piece in (shown[start : start + _BLOCKS] for start in range(0, len(shown), _BLOCKS)):
        starts = blocks.starts[piece]
        tokens = blocks.take(piece).tokens.numpy().astype(TOKENS)
        documents = blocks.split.document_of(starts)
        columns = (each.tolist() for each in (piece, documents, starts))
        yield from zip(*columns, (row.tobytes() for row in tokens), strict=True)


def _documents(blocks: EvenBlocks) -> Int64[np.ndarray, " documents"]:
    """The documents that any of the blocks holds text of."""
    split, starts = blocks.split, blocks.starts
    changes = np.zeros(len(split.document_starts) + 1, np.int64)
    np.add.at(changes, split.document_of(starts), 1)
    np.add.at(changes, split.document_of(starts + blocks.text_length - 1) + 1, -1)
    return np.flatnonzero(np.cumsum(changes))


def card(material: Material, fired: Int64[np.ndarray, " n_latents"], documents: int) -> dict[str, Any]:
    """The run, the index and the densities, in plain values: all of the table ``meta`` but identity and metrics.

    Args:
        fired: tokens with each latent.
    """
    config, settings, sae, subject, blocks, _ = material
    assert sae.provenance is not None
    has_k = "k" in type(sae).settings
    counts = torch.from_numpy(fired)
    density = density_histogram(Firing(counts, counts, counts, documents), blocks.rows)
    return {
        "format_version": FORMAT_VERSION,
        "run": {
            "name": config.out.resolve().name,
            "architecture": sae.config.architecture,
            "n_latents": sae.n_latents,
            "d_model": sae.d_model,
            "k": sae.config.k if has_k else None,
            "preprocess": sae.config.preprocess,
            "subject": _published(subject.name),
            "revision": subject.revision,
            "hookpoints": list(sae.provenance.hookpoints),
            "target": sae.provenance.target,
            "training": {name: value for name, value in sae.training_summary.items() if math.isfinite(value)},
        },
        "index": {
            "tokens": blocks.rows,
            "blocks": len(blocks),
            "context_length": blocks.context_length,
            "text_start": blocks.context_length - blocks.text_length,
            "split": settings.split,
            "documents": documents,
        },
        "density": {"edges": list(density.log10_edges), "counts": list(density.latents), "dead": density.dead},
    }


def _published(subject: str) -> str:
    """Of a directory its own name alone: the pages may be published, and where it lies is nobody's business."""
    return Path(subject).resolve().name if Path(subject).is_dir() else subject
