"""The viewer as files that any web server serves: the pages, and in place of the API the records, in pieces."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.runlog import ProgressLine
from monosem.runs.console import default_console
from monosem.viewer.comparison import Comparison, Side
from monosem.viewer.reading import Library
from monosem.viewer.records import Record
from monosem.viewer.static_files import INDEX, static_files

if TYPE_CHECKING:
    from rich.console import Console

MARK = "monosem-export.json"
"""Says that a directory is an export, and which files beside the data are its own."""
DATA = "data"
LATENTS_A_FILE = 100
SEARCH_LATENTS_A_FILE = 2000
COMPARE_LATENTS_A_FILE = 2000

_SOURCE = re.compile(rb'(<meta name="monosem-source" content=")live(")')


def export(library: Library, out: Path, comparison: Comparison | None = None, console: "Console | None" = None) -> None:
    """Write the pages and all that they show into a directory; an earlier export there is replaced.

    Prompts and steering need a server and are left out. Each file is whole or absent; the index page comes last.

    Args:
        console: where progress is shown; by default standard error.

    Raises:
        UserError: the directory holds something else, or cannot be written.
    """
    pages = {name: file.content for name, file in static_files().items()}
    index, count = _SOURCE.subn(rb"\1static\2", pages.pop(INDEX))
    assert count == 1, "the page must say where it takes its data from"
    _prepare(out, [INDEX, *pages])
    pieces = _Pieces(out / DATA)
    pieces.write("run.json", library.run(compare=None if comparison is None else comparison.other.name))
    pieces.write("scatter.json", library.scatter())
    with ProgressLine("Exporting", library.n_latents, console or default_console(), unit="latents") as line:
        searched = pieces.write_range(
            "search", library.n_latents, SEARCH_LATENTS_A_FILE, _range_of(library.search_entries)
        )
        read = _range_of(library.latents)
        latents = pieces.write_range(
            "latents", library.n_latents, LATENTS_A_FILE, lambda *ends: _compact(read(*ends)), line.update
        )
    if comparison is not None:
        pieces.write("compare.json", _compared(comparison, pieces))
    pieces.write("contents.json", {"search": searched, "latents": latents})
    for name, content in {**pages, INDEX: index}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / name, content)


def require_free(out: Path) -> None:
    """Refuse a place that is neither free nor an earlier export.

    Raises:
        UserError: says what it is.
    """
    try:
        if out.exists() and any(out.iterdir()):
            _own_files(out)
    except OSError as error:
        raise _not_writable(out, error) from error


def _not_writable(out: Path, error: OSError) -> UserError:
    return UserError(f"out={out} cannot be written: {error.strerror}; choose another directory.")


def _prepare(out: Path, names: list[str]) -> None:
    """Make the directory, or take an earlier export out of it, and mark it as one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            for name in _own_files(out):
                (out / name).unlink(missing_ok=True)
            if (out / DATA).exists():
                shutil.rmtree(out / DATA)
    except OSError as error:
        raise _not_writable(out, error) from error
    write_atomically(out / MARK, (json.dumps({"files": names}, indent=1) + "\n").encode())


def _own_files(out: Path) -> list[str]:
    """The files of an earlier export, but for its data.

    Raises:
        UserError: there was none.
    """
    try:
        names = [PurePosixPath(name) for name in json.loads((out / MARK).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"out={out} is not empty and holds no earlier export; name an empty directory, or a new one."
        ) from error
    if outside := [name for name in names if name.is_absolute() or ".." in name.parts]:
        raise UserError(f"{out / MARK} names {outside[0]}, which is not inside; remove it and empty the directory.")
    return [str(name) for name in names]


class _Pieces:
    """The JSON files under ``data/``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, record: object) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        write_atomically(path, text.encode())

    def write_range(
        self,
        name: str,
        n_latents: int,
        size: int,
        read: Callable[[int, int], Record],
        report: Callable[[int], None] = lambda _: None,
    ) -> dict[str, int]:
        """The records of all latents, ``size`` in each file; how they are cut."""
        starts = range(0, n_latents, size)
        for number, first in enumerate(starts):
            last = min(first + size, n_latents) - 1
            self.write(f"{name}/{number}.json", {"first": first, **read(first, last)})
            report(last + 1)
        return {"size": size, "files": len(starts)}


def _range_of(read: Callable[[int, int], list[Record]]) -> Callable[[int, int], Record]:
    return lambda first, last: {"latents": read(first, last)}


def _compact(file: Record) -> Record:
    """Records of latents whose contexts name tokens by number, with the texts of these once: a third of the bytes."""
    vocabulary: dict[int, str] = {}
    for latent in file["latents"]:
        for example in latent["examples"]:
            vocabulary |= zip(example["ids"], example.pop("texts"), strict=True)
    return file | {"vocabulary": vocabulary}


def _compared(comparison: Comparison, pieces: _Pieces) -> Record:
    """What ``compare.json`` holds: the runs' names, and how the records of each side are cut."""
    sides: dict[Literal["run", "other"], Side] = {"run": comparison.run, "other": comparison.other}
    cut = {
        name: {"of": side.library.n_latents}
        | pieces.write_range(
            f"compare/{name}",
            side.library.n_latents,
            COMPARE_LATENTS_A_FILE,
            _range_of(lambda first, last, name=name: comparison.records(name, range(first, last + 1))),
        )
        for name, side in sides.items()
    }
    return {"run": comparison.run.name, "other": comparison.other.name, "sides": cut}
