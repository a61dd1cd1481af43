"""What a cache of activations holds, as its ``index.json`` says; read as data from outside, strictly."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from monosem.data.directories import Directory
from monosem.errors import UserError

FORMAT_VERSION = 1
INDEX = "index.json"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_POSITION_BYTES = 8
_CHECKSUM = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


def row_bytes(width: int, dtype: str) -> int:
    """Bytes that one stored row takes: its activations and its int64 position."""
    return width * DTYPES[dtype].itemsize + _POSITION_BYTES


def cache_size_bytes(rows: int, width: int, dtype: str) -> int:
    """Bytes that ``rows`` stored rows take, but for a few hundred bytes of header a shard."""
    return rows * row_bytes(width, dtype)


def default_rows_per_shard(width: int, dtype: str) -> int:
    """Rows in a shard of about 128 MiB; a writer holds two or three shards' bytes in memory."""
    return max(1, (1 << 27) // row_bytes(width, dtype))


def shard_file(index: int) -> str:
    """The only name that the shard at this place of the index may have."""
    return f"shard-{index:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class SubjectIdentity:
    """The model that the activations came from, as far as it decides them."""

    name: str
    revision: str | None
    context_length: int  # tokens


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What a cache is to hold; a cache is resumed only by the plan that began it (``rows_total`` may change)."""

    subject: SubjectIdentity
    hookpoint: str
    width: int  # components of one activation vector
    dtype: str  # bfloat16 or float32
    rows_total: int  # rows
    rows_per_shard: int  # rows
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])  # JSON; where the text and tokens came from

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            why = "float16 overflows on activations" if self.dtype == "float16" else "activations aren't stored so"
            raise UserError(f"dtype={self.dtype!r}: {why}; use {' or '.join(DTYPES)}.")
        for name in ("width", "rows_total", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")


class Shard(NamedTuple):
    """One file of the index."""

    file: str
    rows: int
    bytes: int
    checksum: str  # of the whole file


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What ``index.json`` says: the plan, and the shards that are there."""

    plan: ShardPlan
    shards: tuple[Shard, ...]

    @property
    def rows_stored(self) -> int:
        """Rows in finished shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def is_complete(self) -> bool:
        """Whether every planned row is stored."""
        return self.rows_stored == self.plan.rows_total


def open_shards(path: str | Path) -> ShardIndex:
    """Read and check a cache's index.

    Raises:
        UserError: there is none, it is of a newer format, or it is not sound.
    """
    return read_index(Directory(path))


def read_index(place: Directory) -> ShardIndex:
    """The index of an open directory, checked; see ``open_shards``."""
    try:
        data = place.read(INDEX)
    except FileNotFoundError as error:
        raise UserError(
            f"{place.name} holds no cached activations ({INDEX} is missing); write them with `monosem cache`."
        ) from error
    try:
        return _parse_index(json.loads(data))
    except _NewerFormatError as error:
        raise UserError(f"{place.name}/{INDEX} {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place.name}/{INDEX} is not a sound index of activations: {error} "
            "Restore it, or write the cache again with `monosem cache --overwrite`."
        ) from error


class _NewerFormatError(Exception):
    """The index is of a format that a later version writes."""


def _take(entries: Any, name: str, kind: type[T]) -> T:
    """The entry of this name, which must be there and of exactly this type (a bool is no int)."""
    if not isinstance(entries, dict):
        raise ValueError(f"an object with {name!r} was expected, not {entries!r:.60}.")
    value = entries.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}={value!r:.60} should be of type {kind.__name__}.")
    return value


def _parse_index(entries: Any) -> ShardIndex:
    version = _take(entries, "format_version", int)
    if version > FORMAT_VERSION:
        raise _NewerFormatError(
            f"has format_version={version} and this monosem reads up to {FORMAT_VERSION}; upgrade monosem."
        )
    if version < 1:
        raise ValueError(f"format_version={version} should be at least 1.")
    plan = ShardPlan(
        subject=_parse_subject(_take(entries, "subject", dict)),
        hookpoint=_take(entries, "hookpoint", str),
        width=_take(entries, "width", int),
        dtype=_take(entries, "dtype", str),
        rows_total=_take(entries, "rows_total", int),
        rows_per_shard=_take(entries, "rows_per_shard", int),
        provenance=_take(entries, "provenance", dict),
    )
    listed = _take(entries, "shards", list)
    index = ShardIndex(plan=plan, shards=tuple(_parse_shard(plan, i, entry) for i, entry in enumerate(listed)))
    if index.rows_stored > plan.rows_total:
        raise ValueError(f"its shards hold {index.rows_stored:,} rows and rows_total={plan.rows_total:,}.")
    if (complete := _take(entries, "complete", bool)) != index.is_complete:
        raise ValueError(f"complete={complete} with {index.rows_stored:,} of {plan.rows_total:,} rows stored.")
    return index


def _parse_subject(entries: dict[str, Any]) -> SubjectIdentity:
    return SubjectIdentity(
        name=_take(entries, "name", str),
        revision=None if entries.get("revision") is None else _take(entries, "revision", str),
        context_length=_take(entries, "context_length", int),
    )


def _parse_shard(plan: ShardPlan, place: int, entry: Any) -> Shard:
    shard = Shard(*(_take(entry, name, kind) for name, kind in Shard.__annotations__.items()))
    # One name only, so that no index can point outside its own directory, or twice at one file.
    if shard.file != shard_file(place):
        raise ValueError(f"shard {place}: file={shard.file!r:.60} should be {shard_file(place)!r}.")
    if not 1 <= shard.rows <= plan.rows_per_shard:
        raise ValueError(f"{shard.file}: rows={shard.rows} should be from 1 to rows_per_shard={plan.rows_per_shard}.")
    if shard.bytes <= cache_size_bytes(shard.rows, plan.width, plan.dtype):
        raise ValueError(f"{shard.file}: bytes={shard.bytes} is too little for {shard.rows} rows.")
    if not _CHECKSUM.fullmatch(shard.checksum):
        raise ValueError(f"{shard.file}: checksum={shard.checksum!r:.60} should be 32 hexadecimal digits.")
    return shard


def write_index(place: Directory, index: ShardIndex) -> None:
    """Write the index; what it lists must be there already."""
    from monosem import __version__

    plan = index.plan
    entries: dict[str, Any] = {"format_version": FORMAT_VERSION, "monosem_version": __version__, **vars(plan)}
    entries |= {"subject": vars(plan.subject), "provenance": dict(plan.provenance), "complete": index.is_complete}
    entries["shards"] = [shard._asdict() for shard in index.shards]
    place.write(INDEX, json.dumps(entries, indent=1).encode())
