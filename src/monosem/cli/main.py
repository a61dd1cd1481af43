"""The command line: ``monosem quickstart | train | cache | eval | inspect``."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR = 2
PROGRAM_ERROR = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 something the user can mend, 128 + n stopped by signal n."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code. ``--debug`` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Progress bars of the libraries below would break our own line.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from rich.console import Console

    from monosem.errors import UserError
    from monosem.runs.train import Interrupted

    console = Console(stderr=True)
    try:
        from monosem.cli.commands import parse

        parse(arguments).run(console)
    except UserError as error:
        return _fail(console, str(error), USER_ERROR, debug)
    except Interrupted as interruption:
        return _fail(console, str(interruption), 128 + interruption.signal_number, debug)
    except KeyboardInterrupt:
        return _fail(console, "Interrupted.", 130, debug)
    return 0


def _fail(console: "Console", message: str, code: int, debug: bool) -> int:
    if debug:
        console.print_exception()
    style = "bold red" if code == USER_ERROR else "bold yellow"
    console.print(f"[{style}]{'Error' if code == USER_ERROR else 'Stopped'}[/] ", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
    return code
