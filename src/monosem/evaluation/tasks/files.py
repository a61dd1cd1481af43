"""Labelled texts from files: CSV with a header line, JSON lines, Parquet; CSV and JSON lines may be compressed.

Each file has a column ``text`` and a column ``label`` and is one question, or one for each of its commonest labels.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from monosem.errors import UserError
from monosem.evaluation.tasks.texts import MOST_ROWS, LabelledTexts
from monosem.subject.documents import field_of
from monosem.subject.text_files import text_lines

FILE_SUFFIXES = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MOST_LABELS = 8
"""Of more labels than this the commonest are asked for."""

_COLUMNS = ("text", "label")
_LARGEST_SHARE_OF_LABELS = 0.1
_LONGEST_CELL = 1 << 24


def labelled_texts(path: Path) -> LabelledTexts:
    """A file's texts, as far as its first ``MOST_ROWS``; its name without the suffix is the task's.

    Of two labels the one that sorts last is asked about.

    Raises:
        UserError: the file is of an unknown kind, cannot be read, is damaged or not UTF-8, lacks a column, has a text
            that is no string or a label that is neither string, whole number nor truth value; or there is but one
            label, or nearly as many as texts.
    """
    rows = list(islice(_rows(path), MOST_ROWS))
    counts = Counter(label for _, label in rows)
    if len(counts) < 2:
        found = f"only '{next(iter(counts))}'" if counts else "none"
        raise UserError(f"{path} needs texts with two different labels, and has {found}; add texts with others.")
    if len(counts) > max(MOST_LABELS, _LARGEST_SHARE_OF_LABELS * len(rows)):
        raise UserError(
            f"{path} has {len(counts):,} different labels in {len(rows):,} rows, which is no question that a probe can "
            "answer; name a column with few values 'label'."
        )
    commonest = sorted(counts, key=lambda label: (-counts[label], label))[:MOST_LABELS]
    texts, labels = zip(*rows, strict=True)
    name = path.name[: -len(_suffix(path))]
    return LabelledTexts(name, f"{path.name}: the label is", str(path), texts, labels, tuple(sorted(commonest)))


def task_files(directory: Path) -> list[Path]:
    """A directory's files of labelled texts, sorted.

    Raises:
        UserError: it has none.
    """
    found = sorted(path for path in directory.iterdir() if path.name.lower().endswith(FILE_SUFFIXES))
    if not found:
        raise UserError(
            f"The directory {directory} holds no file of labelled texts. Known: {', '.join(FILE_SUFFIXES)}."
        )
    return found


def _suffix(path: Path) -> str:
    for suffix in FILE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UserError(f"{path} is of no kind that holds labelled texts. Known: {', '.join(FILE_SUFFIXES)}.")


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Text and label of each row."""
    suffix = _suffix(path)
    read = _parquet_records if suffix == ".parquet" else _csv_records if ".csv" in suffix else _json_records
    for place, record in read(path):
        if missing := [column for column in _COLUMNS if column not in record]:
            raise UserError(
                f"{place} has no '{missing[0]}'; it has: {', '.join(sorted(map(str, record)))}. "
                "Each row needs a text and a label."
            )
        yield field_of(record, "text", place), label_of(record["label"], f"{place}: 'label'")


def label_of(value: object, place: str) -> str:
    """A label as text: truth values as ``true`` and ``false``, numbers as whole ones.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, str)) and str(value).strip():
        return str(value).strip()
    raise UserError(f"{place} holds {value!r}, where a word, a whole number, true or false is needed; mend the row.")


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader((line + "\n" for line in text_lines(path)), strict=True)
    header: list[str] | None = None
    try:
        for cells in filter(None, reader):  # without blank lines
            if header is None:
                header = [cell.strip() for cell in cells]
                _require_columns(path, header)
            elif len(cells) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num} has {len(cells)} cells, and the header line {len(header)}; "
                    "put cells with commas in double quotes."
                )
            else:
                yield f"{path}, line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is no CSV: {error}; mend or remove the line.") from error


def _require_columns(path: Path, names: list[str]) -> None:
    for column in _COLUMNS:
        if names.count(column) != 1:
            raise UserError(
                f"{path} has {'no' if column not in names else 'more than one'} column '{column}'; it has: "
                f"{', '.join(names)}. Name the columns text and label in the header."
            )


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text_lines(path), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON: {error}; mend or remove the line.") from error
        if not isinstance(record, dict):
            raise UserError(f"{place} holds a {type(record).__name__}, where an object with text and label is needed.")
        yield place, record


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow.names)
            batches = file.iter_batches(256, columns=list(_COLUMNS))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}, row {number}", row
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} could not be read as parquet: {error}; fetch or write it again.") from error
