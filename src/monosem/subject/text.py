"""Text, one document after another: the builtin corpus, local files, or a data set of the hub, read as a stream.

What makes a document: a library file, a line of a ``.jsonl`` file, a row of a ``.parquet`` file or of a hub data set, a
short ``.txt`` file; a long ``.txt`` file is a document for every 16,000 characters or so, cut at line ends.
"""

import codecs
import difflib
import glob
import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.files import checksum, file_checksum
from monosem.subject import builtin

FILE_SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
PART_CHARACTERS = 16_000

_PIECE_BYTES = 1 << 16
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Document(NamedTuple):
    """One text with a name that tells a reader where it is from: ``path``, ``path#part``, ``path:line``, ``id:row``."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Where the text comes from, and which share of it is kept for evaluation."""

    text: tuple[str, ...] = (builtin.BUILTIN,)
    """``builtin``; or files, globs and directories; or one hub data set."""
    text_field: str = "text"
    """The field that holds the text, in .jsonl and .parquet files and hub data sets."""
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
        self._refuse_unused("the builtin text", "text_field", "text_split", "text_revision")

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
        self._refuse_unused("local files", "text_split", "text_revision")
        if all(_suffix(path).startswith(".txt") for path in found.values()):
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
            yield from _not_empty(str(path), _file_documents(path, config.text_field))


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
        source = [hub_id, config.text_split, revision if is_commit else _hub_commit(config, hub_id)]
    else:
        source = []
        for path in config.files():
            with _reading(path):
                source.append([_suffix(path), file_checksum(path)])
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


def _suffix(path: Path) -> str:
    """The one of ``FILE_SUFFIXES`` that a file has."""
    for suffix in FILE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UserError(f"{path} is of no kind that can be read as text. Known: {', '.join(FILE_SUFFIXES)}.")


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
            _suffix(file)
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


# Reading files


def _file_documents(path: Path, field: str) -> Iterator[Document]:
    suffix = _suffix(path)
    if suffix.startswith(".txt"):
        return _text_documents(path)
    return _parquet_documents(path, field) if suffix == ".parquet" else _jsonl_documents(path, field)


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn whatever goes wrong in reading a file into a message with its name."""
    from zstandard import ZstdError

    try:
        yield
    except gzip.BadGzipFile as error:
        raise UserError(f"{path} is damaged: {error}; fetch or write it again.") from error
    except (EOFError, zlib.error, ZstdError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}; fetch or write it again.") from error
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror or error}.") from error


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes, uncompressed, in pieces."""
    with _reading(path), gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
        yield from _decompressed(pieces) if path.suffix.lower() == ".zst" else pieces


def _decompressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Zstandard frames, decompressed; unlike the library's own reader this notices an end that comes too soon."""
    import zstandard

    new_frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    frame, started = new_frame(), False
    for piece in pieces:
        rest = piece
        while rest:
            started = True
            yield frame.decompress(rest)
            rest = b""
            if frame.eof:
                rest, frame, started = frame.unused_data, new_frame(), False
    if started:
        raise EOFError("the compressed data ends in the middle")


def _decoded(path: Path) -> Iterator[str]:
    """A UTF-8 file's text in pieces, without the mark that some editors put in front."""
    rest, offset = b"", 0
    for piece, is_last in itertools.chain(((piece, False) for piece in _pieces(path)), [(b"", True)]):
        data = rest + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict", is_last)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8: byte {offset + error.start} ({data[error.start]:#04x}) begins no character; "
                "convert the file to UTF-8."
            ) from error
        yield text.removeprefix("\ufeff") if offset == 0 else text
        rest, offset = data[used:], offset + used


def _text_documents(path: Path) -> Iterator[Document]:
    buffer, part = "", 0
    for text in _decoded(path):
        buffer += text
        while len(buffer) > PART_CHARACTERS:
            cut = buffer.rfind("\n", PART_CHARACTERS // 2, PART_CHARACTERS) + 1 or PART_CHARACTERS
            part += 1
            yield Document(f"{path}#{part}", buffer[:cut])
            buffer = buffer[cut:]
    yield Document(f"{path}#{part + 1}" if part else str(path), buffer)


def _lines(path: Path) -> Iterator[str]:
    rest: list[str] = []
    for text in _decoded(path):
        first, *others = text.split("\n")
        rest.append(first)
        if others:
            yield "".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    yield "".join(rest)


def _jsonl_documents(path: Path, field: str) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}; mend or remove the line.") from error
        yield Document(f"{path}:{number}", _field_of(record, field, f"{path}, line {number}"))


def _parquet_documents(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise _missing_field(field, str(path), file.schema_arrow.names)
            values = (value.as_py() for batch in file.iter_batches(256, columns=[field]) for value in batch.column(0))
            for number, value in enumerate(values, start=1):
                yield Document(f"{path}:{number}", _field_of({field: value}, field, f"{path}, row {number}"))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} could not be read as parquet: {error}; fetch or write it again.") from error


def _missing_field(field: str, place: str, names: Iterable[str]) -> UserError:
    return UserError(
        f"{place} has no field '{field}'; it has: {', '.join(sorted(names))}. Choose one with --text-field."
    )


def _field_of(record: object, field: str, place: str) -> str:
    """The text in a record; ``place`` says where the record stands."""
    if not isinstance(record, dict):
        raise UserError(f"{place} holds a {type(record).__name__}, where an object with a field '{field}' is needed.")
    if field not in record:
        raise _missing_field(field, place, record)
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"{place}: field '{field}' holds a {type(text).__name__}, not a string; choose another field.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: field '{field}' holds half a surrogate pair at character {error.start}.") from error
    return text


# The hub


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

        rows: Iterable[Any] = datasets.load_dataset(hub_id, split=config.text_split, revision=commit, streaming=True)
        for number, row in enumerate(rows, start=1):
            place = f"{hub_id}, row {number}"
            yield Document(f"{hub_id}:{number}", _field_of(row, config.text_field, place))
