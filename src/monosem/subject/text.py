"""Text, one document after another: the builtin corpus, local files, or a data set of the hub, read as a stream.

What makes a document: a library file, a line of a ``.jsonl`` file, a row of a ``.parquet`` file or of a hub data set, a
short ``.txt`` file; a long ``.txt`` file is a document for every 16,000 characters or so, cut at line ends.
"""

import difflib
import glob
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.errors import UserError
from monosem.files import checksum, file_checksum
from monosem.subject import builtin
from monosem.subject.documents import Document, field_of
from monosem.subject.text_files import FILE_SUFFIXES, file_documents, file_suffix, reading

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Where the text comes from, and which share of it is kept for evaluation."""

    text: tuple[str, ...] = (builtin.BUILTIN,)
    """``builtin``; or files, globs and directories; or one hub data set."""
    text_field: str = "text"
    """The field that holds the text, in .jsonl and .parquet files and hub data sets."""
    text_subset: str | None = None
    """The subset (configuration) of a hub data set that has several."""
    text_split: str = "train"
    """The split of a hub data set."""
    text_revision: str | None = None
    """The revision of a hub data set; its newest by default."""
    held_out: float = builtin.HELD_OUT_SHARE
    """Share of the documents kept for evaluation, never trained on."""

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("text names no source; give 'builtin', files, globs, directories or a hub data set.")
        if not 0 < self.held_out <= 0.5:
            raise UserError(f"held_out={self.held_out} is not above 0 and at most 0.5; evaluations need documents too.")
        if builtin.BUILTIN not in self.text:
            return
        if len(self.text) > 1:
            others = ", ".join(entry for entry in self.text if entry != builtin.BUILTIN)
            raise UserError(f"text mixes 'builtin' with {others or 'itself'}; choose one or the other.")
        if self.held_out != builtin.HELD_OUT_SHARE:
            raise UserError(
                f"held_out={self.held_out} with the builtin text: it must be {builtin.HELD_OUT_SHARE}, because the "
                "bundled model was trained with that split and would be evaluated on text it has seen."
            )
        self._refuse_unused("the builtin text", "text_field", "text_subset", "text_split", "text_revision")

    def _refuse_unused(self, source: str, *fields: str) -> None:
        for field in fields:
            value, default = getattr(self, field), type(self).__dataclass_fields__[field].default
            if value != default:
                raise UserError(f"{field}={value!r} has no meaning for {source}; leave it out.")

    @property
    def is_builtin(self) -> bool:
        return self.text == (builtin.BUILTIN,)

    def hub_id(self) -> str | None:
        """The hub data set that ``text`` names; None where it names files or the builtin text."""
        ids = [entry for entry in self.text if not self.is_builtin and _is_hub_id(entry)]
        if ids and len(self.text) > 1:
            raise UserError(
                f"text names '{ids[0]}', which is no file here, beside {len(self.text) - 1} more; "
                f"a hub data set stands alone.{_near_matches(ids[0])}"
            )
        return ids[0] if ids else None

    def files(self) -> list[Path]:
        """The files that ``text`` names, each once, in its order; those of a glob or directory sorted.

        Raises:
            UserError: there is no such file, or it is of an unknown kind, or a setting would be unused.
        """
        found = {path.resolve(): path for entry in self.text for path in _paths(entry)}
        self._refuse_unused("local files", "text_subset", "text_split", "text_revision")
        if all(file_suffix(path).startswith(".txt") for path in found.values()):
            self._refuse_unused("plain text files", "text_field")
        return list(found.values())


def documents(config: TextConfig) -> Iterator[Document]:
    """Every document that is not empty, in a fixed order, holding little more than one of them in memory.

    Raises:
        UserError: a source is not there, cannot be read, is damaged, is not UTF-8, lacks the field, or holds no text.
    """
    if config.is_builtin:
        yield from (Document(*pair) for pair in builtin.library_documents())
    elif (hub_id := config.hub_id()) is not None:
        yield from _not_empty(hub_id, _hub_documents(config, hub_id))
    else:
        for path in config.files():
            yield from _not_empty(str(path), file_documents(path, config.text_field))


def is_held_out(config: TextConfig, document: Document) -> bool:
    """Whether a document is kept for evaluation: the builtin ones by their path, others by a hash of their text.

    Equal texts fall on the same side, so a duplicate is never both trained on and held out.
    """
    if config.is_builtin:
        return builtin.is_held_out(document.name)
    digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < config.held_out * 2**64


def fingerprint(config: TextConfig) -> str:
    """A hash that changes when the documents or their split change; files that only moved keep theirs.

    Reads every local file once; a hub data set is identified by its commit, which needs the network unless
    ``text_revision`` is a full commit hash.
    """
    source: list[Any]
    if config.is_builtin:
        root = builtin.library_root()
        source = [[name, checksum((root / name).read_bytes())] for name in builtin.library_files(root)]
    elif (hub_id := config.hub_id()) is not None:
        revision = config.text_revision or ""
        is_commit = re.fullmatch("[0-9a-f]{40}", revision) is not None
        source = [hub_id, config.text_subset, config.text_split, revision if is_commit else _hub_commit(config, hub_id)]
    else:
        source = []
        for path in config.files():
            with reading(path):
                source.append([file_suffix(path), file_checksum(path)])
    return checksum(json.dumps([source, config.text_field, config.held_out]).encode())


def _not_empty(source: str, found: Iterable[Document]) -> Iterator[Document]:
    empty = True
    for document in found:
        if document.text:
            empty = False
            yield document
    if empty:
        raise UserError(f"{source} is empty: there is no text in it; leave it out of --text.")


# Which files


def _is_known(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(FILE_SUFFIXES)


def _is_hub_id(entry: str) -> bool:
    is_file_name = entry.lower().endswith(FILE_SUFFIXES)
    return _HUB_ID.fullmatch(entry) is not None and not is_file_name and not Path(entry).exists()


def _paths(entry: str) -> list[Path]:
    path = Path(entry).expanduser() if entry.startswith("~/") else Path(entry)
    if path.is_dir():
        if inside := sorted(file for file in path.rglob("*") if _is_known(file)):
            return inside
        raise UserError(f"The directory {path} holds no text file. Known: {', '.join(FILE_SUFFIXES)}.")
    # pathlib's own glob refuses absolute patterns.
    matches = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    if files := [Path(match) for match in matches if Path(match).is_file()]:
        for file in files:
            file_suffix(file)
        return files
    raise UserError(
        f"text '{entry}' is no file, no directory and no pattern that matches a file, "
        f"nor the name of a hub data set.{_near_matches(entry)}"
    )


def _near_matches(entry: str) -> str:
    """A sentence that names the files with names like the missing one's, if there are any."""
    path = Path(entry)
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    return f" Near: {', '.join(str(path.parent / name) for name in near)}." if near else ""


@contextmanager
def _reaching_hub(hub_id: str) -> Generator[None]:
    # Everything is caught: the HTTP library behind the hub's client lets its own errors through, and it is another
    # one, with other classes, in other versions of the client.
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(
            f"text '{hub_id}' is no file here, and could not be read as a data set of the hub: {reason}. "
            f"Check the name, connect to the network, or name local files with --text.{_near_matches(hub_id)}"
        ) from error


def _hub_commit(config: TextConfig, hub_id: str) -> str:
    """The commit that ``text_revision`` stands for, as the hub says now."""
    with _reaching_hub(hub_id):
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(hub_id, revision=config.text_revision, timeout=10).sha
        assert commit is not None
        return commit


def _hub_documents(config: TextConfig, hub_id: str) -> Iterator[Document]:
    # Asking for the commit first fails at once without network; load_dataset would try for half a minute.
    commit = _hub_commit(config, hub_id)
    with _reaching_hub(hub_id):
        import datasets

        rows: Iterable[Any] = datasets.load_dataset(
            hub_id, config.text_subset, split=config.text_split, revision=commit, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            place = f"{hub_id}, row {number}"
            yield Document(f"{hub_id}:{number}", field_of(row, config.text_field, place))
