"""Results of an evaluation's parts, stored in the run so that a second evaluation measures only what changed.

A result belongs to what was measured, its material, and to how: each is a checksum of all that it depends on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosem.files import checksum, file_checksum, write_atomically
from monosem.runlog import read_json_lines


class Key(NamedTuple):
    """What a result belongs to."""

    material: str
    settings: str


def content_key(material: Mapping[str, Any], settings: Mapping[str, Any]) -> Key:
    """Checksums of plain values."""
    return Key(*(checksum(json.dumps(each, sort_keys=True).encode()) for each in (material, settings)))


def store_result(path: Path, key: Key, result: Mapping[str, Any], files: Sequence[Path] = ()) -> dict[str, Any]:
    """Write a result, and the checksums of files that belong to it; the result as it will be read."""
    record = {**key._asdict(), "files": {file.name: file_checksum(file) for file in files}, "result": result}
    path.parent.mkdir(exist_ok=True)
    data = _line(record)
    write_atomically(path, data.encode())
    return json.loads(data)["result"]


class Pieces:
    """Records that a long measurement leaves as it goes, a line of JSON each, for the next one to go on from."""

    def __init__(self, path: Path, key: Key) -> None:
        """Read what was left under this key, as far as it is whole."""
        lines = read_json_lines(path) if path.exists() else []
        self.path, self._head = path, key._asdict()
        self.found: list[dict[str, Any]] = lines[1:] if lines[:1] == [self._head] else []
        self._is_open = False

    def keep(self, value: dict[str, Any]) -> None:
        """Add one."""
        if not self._is_open:  # anew, for the last line may have been cut short
            self.path.parent.mkdir(exist_ok=True)
            write_atomically(self.path, "".join(map(_line, [self._head, *self.found])).encode())
            self._is_open = True
        with self.path.open("a") as file:
            file.write(_line(value))

    def remove(self) -> None:
        """Once the whole is stored."""
        self.path.unlink(missing_ok=True)


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def stored_result(
    path: Path, key: Key, files: Sequence[Path] = (), *, any_settings: bool = False
) -> dict[str, Any] | None:
    """The result of this key, if there is one and the files that belong to it are as they were.

    Args:
        any_settings: take one of the same material, however it was measured.
    """
    try:
        record = json.loads(path.read_bytes())
        if record["material"] != key.material or (record["settings"] != key.settings and not any_settings):
            return None
        if any(file_checksum(file) != record["files"].get(file.name) for file in files):
            return None
        return dict(record["result"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
