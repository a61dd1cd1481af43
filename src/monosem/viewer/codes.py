"""Codes on disk, token by token: every strictly positive activation of every indexed token, in flat files that grow.

A row is one indexed token. The files are written chunk by chunk; after each chunk, once its bytes are on the disk, a
small state file says how far they count. What an interruption leaves behind that is cut off.
"""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt32, UInt64
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.progress import Report
from monosem.files import not_written, write_atomically
from monosem.ops.reference import Chosen
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.encoder import make_encoder
from monosem.subject.blocks import Blocks, EvenBlocks
from monosem.subject.model import SubjectModel

STATE = "codes.json"
# Tokens read and encoded at once, and how often in one chunk: bounds what is held, and what an interruption loses.
BATCH_TOKENS, BATCHES = 16384, 2
# Two contexts are the same where so many tokens before the peak, the peak and so many after it are.
BEFORE, AFTER = 8, 2
MOST_ROWS = 1 << 32
# Entries of the files looked through at once.
_PIECE = 1 << 22


class StoredCodes(NamedTuple):
    """The codes of all indexed tokens, mapped from their files. Row i's are ``offsets[i] : offsets[i + 1]``."""

    offsets: Int64[np.ndarray, " rows_and_one"]
    places: UInt32[np.ndarray, " rows"]
    """Where the row stands among all of the blocks' tokens, block after block, BOS included."""
    tokens: UInt32[np.ndarray, " rows"]
    """Of the vocabulary."""
    contexts: UInt64[np.ndarray, " rows"]
    """A hash of the tokens around it; equal ones are the same context."""
    latents: UInt32[np.ndarray, " records"]
    values: Float[np.ndarray, " records"]
    """float32."""


_TYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in zip(StoredCodes._fields, ("<i8", "<u4", "<u4", "<u8", "<u4", "<f4"), strict=True)
}


class Extent(NamedTuple):
    """How far the codes are written."""

    blocks: int = 0
    rows: int = 0
    records: int = 0

    def entries(self, name: str) -> int:
        """Of one of the files."""
        if name in ("latents", "values"):
            return self.records
        return self.rows + (name == "offsets")


class CodeFiles:
    """The codes' files in a directory, open to be written further; used as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.done = _read_extent(directory)
        self._files: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "CodeFiles":
        for name, kind in _TYPES.items():
            path = self._directory / name
            path.touch()
            file = self._stack.enter_context(path.open("r+b"))
            file.truncate(self.done.entries(name) * kind.itemsize)
            file.seek(0, os.SEEK_END)
            self._files[name] = file
        if self.done.blocks == 0:
            self._files["offsets"].seek(0)
            self._files["offsets"].write(np.zeros(1, _TYPES["offsets"]).tobytes())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, blocks: int, codes: StoredCodes) -> None:
        """Add the codes of so many further blocks; they count once this returns.

        Raises:
            UserError: the disk is full.
        """
        try:
            for name, values in codes._asdict().items():
                added = values[1:] + self.done.records if name == "offsets" else values
                self._files[name].write(np.ascontiguousarray(added, _TYPES[name]).data)
                self._files[name].flush()
                os.fsync(self._files[name].fileno())
        except OSError as error:
            raise not_written(self._directory, error) from error
        self.done = Extent(
            self.done.blocks + blocks, self.done.rows + len(codes.places), self.done.records + len(codes.latents)
        )
        write_atomically(self._directory / STATE, json.dumps(self.done._asdict()).encode())


def _read_extent(directory: Path) -> Extent:
    """How far the files in a directory count; nothing, where one is missing or too short."""
    try:
        done = Extent(**json.loads((directory / STATE).read_bytes()))
        sizes = {name: done.entries(name) * kind.itemsize for name, kind in _TYPES.items()}
        if min(done) >= 0 and all((directory / name).stat().st_size >= size for name, size in sizes.items()):
            return done
    except (OSError, ValueError, TypeError):
        pass
    return Extent()


def read_codes(directory: Path) -> StoredCodes:
    """Map the files that are written."""
    done = _read_extent(directory)
    return StoredCodes(
        *(_mapped(directory / name, kind, done.entries(name)) for name, kind in _TYPES.items())  # pyright: ignore[reportArgumentType]
    )


def _mapped(path: Path, kind: np.dtype[Any], count: int) -> Any:
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, mode="r", shape=(count,)))


def write_codes(
    directory: Path, sae: Autoencoder, subject: SubjectModel, blocks: EvenBlocks, report: Report | None = None
) -> None:
    """Encode what is not encoded yet of the blocks, and add it to the files.

    Args:
        report: called with the tokens done and in all.

    Raises:
        UserError: there are more tokens than the files can number, activations are not finite, or the disk is full.
    """
    if len(blocks) * blocks.context_length > MOST_ROWS:
        raise UserError(f"tokens={blocks.rows:,} are more than an index can hold, {MOST_ROWS:,}; lower --tokens.")
    encode = make_encoder(sae)
    chunk = BATCHES * max(1, BATCH_TOKENS // blocks.context_length)
    with CodeFiles(directory) as files:
        while files.done.blocks < len(blocks):
            if report is not None:
                report(files.done.rows, blocks.rows)
            start = files.done.blocks
            here = blocks.take(slice(start, start + chunk))
            latents = _encode(here, sae, subject, encode)
            files.append(len(here.tokens), _stored(here, latents, start))
        if report is not None:
            report(blocks.rows, blocks.rows)


def _encode(blocks: Blocks, sae: Autoencoder, subject: SubjectModel, encode: Any) -> list[Chosen]:
    """What is active at the blocks' kept tokens, a batch of blocks after the other; on the CPU."""
    assert sae.provenance is not None
    site = sae.provenance.site
    found: list[Chosen] = []
    for batch in zip(*(each.split(max(1, BATCH_TOKENS // each.shape[1])) for each in blocks), strict=True):
        tokens, kept, _ = batch
        raw = site.read(subject.capture(tokens, site.inputs))
        raw = raw[kept.to(raw.device)]
        if not bool(raw.isfinite().all()):
            raise UserError(
                f"The activations at {site} are not finite: those of {subject.name} overflow "
                f"{str(subject.dtype).removeprefix('torch.')}, or weights are damaged; try --dtype float32."
            )
        found.append(_active(encode(raw.to(sae.W_enc.device))))
    return found


def _active(chosen: Chosen) -> Chosen:
    """Those that are strictly positive, on the CPU."""
    values, indices, row_offsets = (each.cpu() for each in chosen)
    is_active = values > 0
    before = torch.nn.functional.pad(is_active.cumsum(0), (1, 0))
    return Chosen(values[is_active], indices[is_active], before[row_offsets])


def _stored(blocks: Blocks, latents: list[Chosen], first_block: int) -> StoredCodes:
    kept: Bool[np.ndarray, "blocks length"] = blocks.kept.numpy()
    places = np.flatnonzero(kept) + first_block * kept.shape[1]
    counts = torch.cat([each.row_offsets.diff() for each in latents])
    return StoredCodes(
        offsets=np.concatenate([np.zeros(1, np.int64), counts.cumsum(0).numpy()]),
        places=places.astype(np.uint32),
        tokens=blocks.tokens.numpy()[kept].astype(np.uint32),
        contexts=context_hashes(blocks.tokens)[kept],
        latents=torch.cat([each.indices for each in latents]).numpy().astype(np.uint32),
        values=torch.cat([each.values for each in latents]).float().numpy(),
    )


def context_hashes(tokens: Int[Tensor, "blocks length"]) -> UInt64[np.ndarray, "blocks length"]:
    """For each token a hash of it, the BEFORE tokens before it and the AFTER ones behind it, in its block.

    64 bits, so that two different contexts of a billion meet with a chance of 3%. A context that is cut by the block's
    end is another than one that is not.
    """
    padded = np.pad(tokens.numpy().astype(np.uint64) + np.uint64(1), ((0, 0), (BEFORE, AFTER)))
    state = np.zeros(tokens.shape, np.uint64)
    for shift in range(BEFORE + 1 + AFTER):  # SplitMix64 (Steele et al. 2014), a token after the other
        state = (state ^ padded[:, shift : shift + tokens.shape[1]]) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def count_fired(codes: StoredCodes, n_latents: int) -> Int64[np.ndarray, " n_latents"]:
    """On how many tokens each latent fires."""
    counts = np.zeros(n_latents, np.int64)
    for piece in _pieces(codes.latents):
        counts += np.bincount(piece, minlength=n_latents)
    return counts


def is_sound(codes: StoredCodes, n_latents: int, vocabulary: int, places: int) -> bool:
    """Whether every number in the codes points at something."""
    offsets, rows, records = codes.offsets, len(codes.places), len(codes.latents)
    if rows == 0 or len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != records:
        return False
    limits = ((codes.places, places), (codes.tokens, vocabulary), (codes.latents, n_latents))
    return (
        bool((offsets[:-1] <= offsets[1:]).all())
        and all(int(piece.max()) < limit for numbers, limit in limits for piece in _pieces(numbers))
        and all(bool(((piece > 0) & (piece < np.inf)).all()) for piece in _pieces(codes.values))
    )


def _pieces(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[start : start + _PIECE] for start in range(0, len(numbers), _PIECE)]
