"""The directory in which an index is made; an interruption leaves it, and the next attempt goes on from it."""

import json
import os
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monosem.errors import UserError
from monosem.files import sync_directory
from monosem.viewer.schema import create_tables

DIRECTORY = "viewer.unfinished"
_DATABASE = "index.sqlite"
_CACHE_KB = 1 << 16


class Unfinished:
    """A directory with a database that no other process may touch meanwhile; used as a context manager."""

    def __init__(self, run: Path, content: str) -> None:
        """
        Args:
            content: the identity of what goes into it; what is there and belongs to something else is removed.
        """
        self.directory, self._content = run / DIRECTORY, content

    def __enter__(self) -> "Unfinished":
        """
        Raises:
            UserError: another process is making an index here, or the place cannot be written.
        """
        for _ in range(2):
            self.connection = self._opened()
            try:
                if self.get("content") == self._content:
                    return self
            except (sqlite3.DatabaseError, ValueError):
                pass
            self.connection.close()
            shutil.rmtree(self.directory)
        raise UserError(f"{self.directory} does not stay as it is written; remove it and try again.")

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def _opened(self) -> sqlite3.Connection:
        """The database, locked until it is closed; a new one says what it belongs to."""
        try:
            self.directory.mkdir(exist_ok=True)
            is_new = not (self.directory / _DATABASE).exists()
            connection = sqlite3.connect(self.directory / _DATABASE, timeout=0, isolation_level=None)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self.directory} cannot be written: {error}; free some space, or mend it.") from error
        try:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            if is_new:
                create_tables(connection)
                connection.execute("INSERT INTO meta VALUES ('content', ?)", (json.dumps(self._content),))
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                connection.close()
                raise UserError(f"Another process is making the index in {self.directory}; wait for it.") from error
        return connection

    def get(self, key: str) -> Any:
        """What is noted under a key; None where there is nothing."""
        found = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def put(self, key: str, value: Any) -> None:
        """Note a plain value, in the place of what was noted before."""
        data = json.dumps(value, allow_nan=False)
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, data))

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All that is written within the block is there afterwards, or nothing of it.

        Raises:
            UserError: the disk is full.
        """
        self.connection.execute("BEGIN")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise UserError(f"Could not write {self.directory}: {error}; free some space.") from error
            raise

    def take_over(self, place: Path) -> None:
        """Begin with what a finished index holds, which is of the same content."""
        other = sqlite3.connect(place)
        try:
            other.backup(self.connection)
        finally:
            other.close()

    def finish(self, place: Path) -> None:
        """Move the database to its place, whole, and remove the rest."""
        self.connection.close()
        descriptor = os.open(self.directory / _DATABASE, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        (self.directory / _DATABASE).replace(place)
        sync_directory(place.parent)
        shutil.rmtree(self.directory)
