"""The command line: ``monosem COMMAND``, a file for each command."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from monosem.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "quickstart": "train on the bundled subject model, evaluate, show latents: nothing to download",
    "train": "train a sparse autoencoder on a language model's activations, or go on with a run",
    "cache": "store a language model's activations on disk, to train from them",
    "eval": "evaluate a run's autoencoder on held-out text",
    "compare": "set evaluated runs side by side, in a table and a figure",
    "frontier": "train architectures and sparsities from one stream of activations, and compare them",
    "sweep": "train grids of runs, on one machine or many, into one table of results",
    "fit": "fit scaling laws to the results of sweeps: figures, tables, coefficients with intervals",
    "recommend": "say what to train for an amount of compute, by fitted laws",
    "inspect": "show a text token by token with its strongest latents",
    "view": "look at every latent in the browser, try prompts, steer; or write the pages as files",
    "steer": "continue a text with some latents at other values, and as it is",
    "tasks": "list the questions that an evaluation's probes are asked",
}

USER_ERROR = 2


def main() -> None:
    """Run a command and exit: 0 done, 2 something the user can mend, 128 + n stopped by signal n."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. ``--debug`` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    command, *rest = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    # Progress bars of the libraries below would break our own line.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from rich.console import Console

    console = Console(stderr=True)
    if command in ("-h", "--help"):
        _show_help(Console())
        return 0
    if command == "--version":
        from monosem import __version__

        Console().print(f"monosem {__version__}", highlight=False)
        return 0
    try:
        _command(command)(rest, console)
    except UserError as error:
        return _fail(console, "Error", str(error), USER_ERROR, debug)
    except SystemExit as exit_:  # the parser has said what is wrong
        return int(exit_.code or 0)
    except KeyboardInterrupt as interruption:
        return _fail(console, "Interrupted", str(interruption), 128 + getattr(interruption, "signal_number", 2), debug)
    return 0


def _command(name: str) -> Callable[[list[str], "Console"], None]:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(COMMANDS)}."
        raise UserError(f"Unknown command '{name}'; {hint}")
    return importlib.import_module(f"monosem.cli.{name}").main


def _show_help(out: "Console") -> None:
    from rich.table import Table

    out.print("Train, evaluate and browse sparse autoencoders on the activations of language models.\n")
    table = Table.grid(padding=(0, 3))
    for name, words in COMMANDS.items():
        table.add_row(f"  [bold]{name}[/]", words)
    out.print(table)
    out.print("\n[bold]monosem COMMAND --help[/] lists a command's flags; --debug shows tracebacks.", highlight=False)


def _fail(console: "Console", kind: str, message: str, code: int, debug: bool) -> int:
    if debug:
        console.print_exception()
    from rich.text import Text

    console.print(Text.assemble((kind, "bold red"), " ", message), soft_wrap=True)
    return code
