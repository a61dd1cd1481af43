"""The pages' files, all in memory: what is not among them cannot be asked for, however its name is spelt."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from monosem.files import checksum

DIRECTORY = Path(__file__).parent / "static"
INDEX = "index.html"

# Not the operating system's table, which programs change: with another type a browser runs no module.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}


class StaticFile(NamedTuple):
    """A file of the pages."""

    content: bytes
    media_type: str
    etag: str
    """Its checksum, quoted."""


def static_files() -> Mapping[str, StaticFile]:
    """The files by their path within the directory; of kinds that pages are made of, the others are left out."""
    found: dict[str, StaticFile] = {}
    for path in sorted(DIRECTORY.rglob("*")):
        media_type = TYPES.get(path.suffix)
        if media_type is not None and path.is_file():
            content = path.read_bytes()
            name = path.relative_to(DIRECTORY).as_posix()
            found[name] = StaticFile(content, media_type, f'"{checksum(content)}"')
    return found
