"""Where progress is shown when nobody says otherwise."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def default_console() -> "Console":
    """Standard error, so that standard output stays free for results."""
    from rich.console import Console

    return Console(stderr=True)
