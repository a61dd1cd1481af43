"""A directory on this machine's disk or, through fsspec, anywhere else."""

from pathlib import Path

import fsspec.core
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from monosem.errors import UserError
from monosem.files import write_atomically


class Directory:
    """A directory of a local or remote filesystem.

    Raises:
        UserError: the path's protocol is unknown, or needs a package that isn't installed (the message names it);
            and, from each method, whatever the filesystem refuses.
    """

    def __init__(self, path: str | Path):
        self.name = str(path)
        if "://" in self.name:
            try:
                filesystem, root = fsspec.core.url_to_fs(self.name)
            except (ImportError, ValueError) as error:
                raise UserError(f"Cannot open {self.name}: {error}.") from error
        else:
            filesystem, root = LocalFileSystem(), str(Path(path).expanduser().absolute())
        self._filesystem: AbstractFileSystem = filesystem
        self._root = str(root).rstrip("/")
        self.local_path = Path(self._root) if isinstance(filesystem, LocalFileSystem) else None

    def make(self) -> None:
        """Make the directory where it is missing."""
        try:
            self._filesystem.makedirs(self._root, exist_ok=True)
        except OSError as error:
            raise UserError(f"Could not make the directory {self.name}: {error}; choose another place.") from error

    def sizes(self) -> dict[str, int]:
        """Bytes of each file in the directory, by name."""
        self._filesystem.invalidate_cache()
        try:
            found = self._filesystem.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"Could not list {self.name}: {error}.") from error
        return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in found}

    def read(self, file: str) -> bytes:
        """The bytes of a file; a missing one is a plain ``FileNotFoundError``."""
        try:
            data = self._filesystem.cat_file(f"{self._root}/{file}")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"Could not read {self.name}/{file}: {error}.") from error
        assert isinstance(data, bytes)
        return data

    def write(self, file: str, data: bytes) -> None:
        """Write a file; on a local disk it is whole or absent, elsewhere only the index vouches for it."""
        if self.local_path is not None:
            write_atomically(self.local_path / file, data)
            return
        try:
            self._filesystem.pipe_file(f"{self._root}/{file}", data)
        except OSError as error:
            raise UserError(f"Could not write {self.name}/{file}: {error}.") from error

    def remove(self, file: str) -> None:
        """Delete a file."""
        self._filesystem.rm_file(f"{self._root}/{file}")
