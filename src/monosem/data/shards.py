"""Activations on disk: one directory a hookpoint, holding ``index.json`` and checksummed safetensors shards.

A shard holds ``activations [rows, width]`` and ``positions [rows]``. The index alone says what is there: a shard is
written first and listed after, so whatever interrupts the writer, every listed shard is whole. Paths go through
fsspec (a URL must stay a string: ``Path`` swallows a slash of ``s3://``).
"""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.data.directories import Directory
from monosem.data.index import (
    DTYPES,
    INDEX,
    Shard,
    ShardIndex,
    ShardPlan,
    cache_size_bytes,
    read_index,
    shard_file,
    write_index,
)
from monosem.errors import UserError
from monosem.files import checksum, file_checksum, require_free_space

_SHARDS_HELD = 2  # what a reader keeps open: memory for remote shards, only a mapping for local ones
_SHARD = r"shard-\d{5,}\.safetensors"
_OWN_FILE = re.compile(rf"{_SHARD}|\.({_SHARD}|index\.json)\.\d+\.tmp")


class ShardWriter:
    """Writes one hookpoint's activations, and goes on where an interrupted writer stopped.

        writer = ShardWriter("cache/h.4", plan)
        while (start := writer.next_row) < plan.rows_total:
            rows = source.rows(start, min(start + 4096, plan.rows_total))
            writer.write(start, rows.activations["h.4"], rows.positions)

    Rows wait in memory until their shard is full; what waited when a run was interrupted is asked for again. A
    ``rows_total`` other than before extends the cache by further shards, or ends it sooner, but never below the rows
    that are stored.

    Raises:
        UserError: the disk has too little room (local only); what is there was made by another plan, holds more
            rows than this one wants, or is damaged.
    """

    def __init__(self, path: str | Path, plan: ShardPlan, *, overwrite: bool = False):
        self._place = Directory(path)
        self._place.make()
        sizes = self._place.sizes()
        before = read_index(self._place) if INDEX in sizes and not overwrite else None
        if before is not None:
            _require_resumable(self._place, before, plan)
            _require_sizes(self._place, before, sizes)
        self._index = ShardIndex(plan=plan, shards=before.shards if before else ())
        listed = {shard.file for shard in self._index.shards}
        leftovers = {name: size for name, size in sizes.items() if _OWN_FILE.fullmatch(name) and name not in listed}
        self._require_space(sum(leftovers.values()))
        if before != self._index:
            write_index(self._place, self._index)  # before anything is deleted: no index may list what is gone
        for name in leftovers:
            self._place.remove(name)
        buffered = min(plan.rows_per_shard, plan.rows_total - self._index.rows_stored)
        self._activations = torch.empty(buffered, plan.width, dtype=DTYPES[plan.dtype])
        self._positions = torch.empty(buffered, dtype=torch.int64)
        self._waiting = 0  # rows in these two that no shard holds yet

    @property
    def next_row(self) -> int:
        """The first row that is still wanted; the plan's ``rows_total`` when there is none."""
        return self._index.rows_stored + self._waiting

    def write(self, start: int, activations: Float[Tensor, "rows width"], positions: Int64[Tensor, " rows"]) -> None:
        """Take rows ``start, start + 1, …`` in the plan's dtype, and write each shard that they fill.

        Those before ``next_row`` are here already and are passed over, so that the writers of several hookpoints,
        which an interruption may leave at different rows, are fed from one pass that begins at the least of them.
        """
        plan, taken = self._index.plan, self.next_row - start
        assert taken >= 0, f"rows {self.next_row} to {start} are missing"
        assert activations.shape[1] == plan.width
        assert start + len(positions) <= plan.rows_total
        while taken < len(positions):
            full = min(len(self._positions), plan.rows_total - self._index.rows_stored)
            end = min(full, self._waiting + len(positions) - taken)
            come = slice(taken, taken + end - self._waiting)
            self._activations[self._waiting : end] = activations[come].detach()
            self._positions[self._waiting : end] = positions[come]
            taken, self._waiting = come.stop, end
            if end == full:
                self._finish_shard()

    def _finish_shard(self) -> None:
        file = shard_file(len(self._index.shards))
        tensors = {"activations": self._activations[: self._waiting], "positions": self._positions[: self._waiting]}
        data = safetensors.torch.save(tensors)
        self._place.write(file, data)
        shard = Shard(file, self._waiting, len(data), checksum(data))
        index = ShardIndex(plan=self._index.plan, shards=(*self._index.shards, shard))
        write_index(self._place, index)
        self._index, self._waiting = index, 0

    def _require_space(self, reclaimed: int) -> None:
        if self._place.local_path is not None:
            plan = self._index.plan
            needed = cache_size_bytes(plan.rows_total - self._index.rows_stored, plan.width, plan.dtype)
            what = f"Caching {plan.rows_total:,} rows of {plan.hookpoint}"
            require_free_space(self._place.local_path, needed - reclaimed, what)


def _require_resumable(place: Directory, before: ShardIndex, plan: ShardPlan) -> None:
    remedy = "choose another --out, or replace what is there with --overwrite."
    old, new = _identity(before.plan), _identity(plan)
    for name in [*old, *(new.keys() - old.keys())]:
        if old.get(name) != new.get(name):
            raise UserError(
                f"{place.name} holds activations made with {name}={old.get(name)!r}, "
                f"and {name}={new.get(name)!r} is asked for; {remedy}"
            )
    if before.rows_stored > plan.rows_total:
        raise UserError(
            f"{place.name} already holds {before.rows_stored:,} rows, more than the rows_total={plan.rows_total:,} "
            f"asked for; ask for at least as many, {remedy}"
        )


def _identity(plan: ShardPlan) -> dict[str, Any]:
    """What two plans must share, as JSON gives it back (a tuple is a list)."""
    flat: dict[str, Any] = {f"subject.{name}": value for name, value in vars(plan.subject).items()}
    flat |= {name: getattr(plan, name) for name in ("hookpoint", "width", "dtype", "rows_per_shard")}
    flat |= {f"provenance.{name}": value for name, value in plan.provenance.items()}
    return json.loads(json.dumps(flat))


class DamagedShardError(Exception):
    """What is wrong with one shard, as the second half of a sentence that its name begins."""


def _damage(place: Directory, wrong: list[str]) -> UserError:
    return UserError(
        f"Cached activations in {place.name} are damaged: {'; '.join(wrong)}. "
        "Restore the files, or write the cache again with `monosem cache --overwrite`."
    )


def _require_size(shard: Shard, size: int | None) -> None:
    if size is None:
        raise DamagedShardError("is missing")
    if size != shard.bytes:
        raise DamagedShardError(f"has {size:,} bytes instead of {shard.bytes:,}")


def _require_sizes(place: Directory, index: ShardIndex, sizes: Mapping[str, int]) -> None:
    for shard in index.shards:
        try:
            _require_size(shard, sizes.get(shard.file))
        except DamagedShardError as error:
            raise _damage(place, [f"{shard.file} {error}"]) from None


class ShardReader:
    """Reads rows of finished shards: local ones memory-mapped, remote ones fetched whole; the last two are kept.

    A shard's checksum is recomputed once, when a process first touches it (about a second a gigabyte), unless
    ``verify`` is off; its size, shapes and dtypes are compared each time it is opened.
    """

    def __init__(self, path: str | Path, *, verify: bool = True):
        self.place = Directory(path)
        self.index = read_index(self.place)
        self._verify = verify
        self._verified: set[str] = set()
        self._open: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def rows(self, shard: int, start: int, stop: int) -> tuple[Float[Tensor, "rows width"], Int64[Tensor, " rows"]]:
        """Activations and positions of a range within one shard: views, to be copied and not written to.

        Raises:
            UserError: the shard is damaged; the message names it.
        """
        tensors = self._tensors(self.index.shards[shard])
        return tensors["activations"][start:stop], tensors["positions"][start:stop]

    def _tensors(self, shard: Shard) -> dict[str, Tensor]:
        if shard.file not in self._open:
            if len(self._open) == _SHARDS_HELD:
                self._open.popitem(last=False)  # before the next is fetched, so that memory never holds one more
            self._open[shard.file] = self._load(shard)
        self._open.move_to_end(shard.file)
        return self._open[shard.file]

    def _load(self, shard: Shard) -> dict[str, Tensor]:
        try:
            data = self.fetch(shard, verify=self._verify and shard.file not in self._verified)
            tensors = safetensors.torch.load(data) if isinstance(data, bytes) else safetensors.torch.load_file(data)
            _require_tensors(shard, tensors, self.index.plan)
        except (DamagedShardError, safetensors.SafetensorError) as error:
            raise _damage(self.place, [f"{shard.file} {error}"]) from error
        self._verified.add(shard.file)
        return tensors

    def fetch(self, shard: Shard, *, verify: bool) -> bytes | Path:
        """The bytes of a remote shard or the path of a local one, its size (and, to ``verify``, checksum) compared.

        Raises:
            DamagedShardError: it isn't what the index says.
        """
        if self.place.local_path is not None:
            data = self.place.local_path / shard.file
            _require_size(shard, data.stat().st_size if data.is_file() else None)
            found = file_checksum(data) if verify else shard.checksum
        else:
            try:
                data = self.place.read(shard.file)
            except FileNotFoundError:
                raise DamagedShardError("is missing") from None
            _require_size(shard, len(data))
            found = checksum(data) if verify else shard.checksum
        if found != shard.checksum:
            raise DamagedShardError(f"has the checksum {found} instead of {shard.checksum}")
        return data


def _require_tensors(shard: Shard, tensors: Mapping[str, Tensor], plan: ShardPlan) -> None:
    expected = {
        "activations": (DTYPES[plan.dtype], [shard.rows, plan.width]),
        "positions": (torch.int64, [shard.rows]),
    }
    found = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()}
    if found != expected:
        raise DamagedShardError(f"holds {found} instead of {expected}")


def verify_shards(path: str | Path) -> ShardIndex:
    """Recompute the checksum of every shard (about a second a gigabyte) and return the index.

    Raises:
        UserError: some are damaged; the message names each.
    """
    reader = ShardReader(path)
    wrong: list[str] = []
    for shard in reader.index.shards:
        try:
            reader.fetch(shard, verify=True)
        except DamagedShardError as error:
            wrong.append(f"{shard.file} {error}")
    if wrong:
        raise _damage(reader.place, wrong)
    return reader.index
