"""``monosem view``: look at a run's latents in the browser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import print_line, standard_output
from monosem.errors import UserError
from monosem.viewer.config import IndexConfig

if TYPE_CHECKING:
    from rich.console import Console

    from monosem.viewer.comparison import Comparison
    from monosem.viewer.reading import Library

PORT = 8765


@dataclass(frozen=True, kw_only=True)
class View:
    """Look at every latent of a run in the browser, try prompts and steer; or write the pages as files.

    monosem view runs/first

    monosem view runs/first --compare runs/second

    monosem view runs/first --export site
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""
    compare: Path | None = None
    """Another run whose nearest latents are shown beside this one's."""
    export: Path | None = None
    """Write the pages and their data here instead, for any web server; without prompts and steering."""
    again: bool = False
    """Make the index again, even if it is there."""
    host: str = "127.0.0.1"
    """The address to listen on. Others than this machine's own let everyone in who reaches it."""
    port: int = PORT
    """The port to listen on; 0 for any that is free."""
    name: tuple[str, ...] = ()
    """Other names that the pages are asked for by, such as a tunnel's or this machine's: NAME, or NAME:PORT."""
    browser: bool = True
    """Open a browser."""
    index: Annotated[IndexConfig, tyro.conf.arg(name="")] = field(default_factory=IndexConfig)


def main(arguments: list[str], console: "Console") -> None:
    """Parse, index, serve or export."""
    command: View = parse(View, arguments, "view")
    if command.export is not None and (command.name or command.host != "127.0.0.1" or command.port != PORT):
        raise UserError("host, port and name are for serving, and would not be used with --export; leave them out.")
    from monosem.viewer.export import export, require_free
    from monosem.viewer.index import build_index
    from monosem.viewer.reading import Library

    if command.export is not None:
        require_free(command.export)
    library = Library(build_index(command.run, command.index, again=command.again, console=console))
    comparison = _comparison(command, library, console)
    if command.export is None:
        _serve(command, library, comparison, console)
        return
    export(library, command.export, comparison, console)
    out = standard_output()
    print_line(f"Pages        {command.export / 'index.html'}", out)
    print_line(f"To see them  python -m http.server --directory {command.export}", out)


def _comparison(command: View, library: "Library", console: "Console") -> "Comparison | None":
    if command.compare is None:
        return None
    from monosem.viewer.comparison import compare_runs
    from monosem.viewer.index import build_index
    from monosem.viewer.reading import Library

    other = Library(build_index(command.compare, command.index, console=console))
    return compare_runs(command.run, command.compare, library, other, console=console)


def _serve(command: View, library: "Library", comparison: "Comparison | None", console: "Console") -> None:
    from monosem.viewer.live import LiveRun
    from monosem.viewer.security import LOCAL_HOSTS
    from monosem.viewer.server import make_app, serve

    is_local = command.host in ("127.0.0.1", "localhost", "::1")
    hosts = (*LOCAL_HOSTS, *command.name) if is_local else (*LOCAL_HOSTS, _bracketed(command.host), *command.name)
    if not is_local:
        console.print(f"[yellow]Everyone who reaches this machine can open these pages:[/] --host {command.host}")
    app = make_app(library, LiveRun(command.run, console), comparison, hosts)
    serve(app, command.host, command.port, ready=_ready(command.browser))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ready(opens_browser: bool) -> Callable[[str], None]:
    def ready(address: str) -> None:
        print_line(f"Pages        {address}   (Ctrl-C ends)", standard_output())
        if opens_browser:
            import webbrowser

            webbrowser.open(address)

    return ready
