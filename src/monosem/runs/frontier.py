"""A frontier: a grid of architectures, sparsities and sizes trained from one stream of activations, and compared."""

from typing import TYPE_CHECKING

from monosem.config import to_toml
from monosem.errors import UserError
from monosem.evaluation.comparison import Comparison
from monosem.files import write_atomically
from monosem.runlog import require_packages
from monosem.runs.compare import compare
from monosem.runs.config import FrontierConfig
from monosem.runs.console import default_console
from monosem.runs.directory import EVALUATION
from monosem.runs.groups import in_groups, prepare, require_same, train_and_evaluate
from monosem.runs.inputs import open_inputs

if TYPE_CHECKING:
    from rich.console import Console

FRONTIER = "frontier.toml"


def frontier(config: FrontierConfig, *, overwrite: bool = False, console: "Console | None" = None) -> Comparison:
    """Train and evaluate what is missing of the grid, and compare all of it; the same call goes on where one stopped.

    The comparison and the configuration are written into ``config.out``, the runs into directories inside it.

    Args:
        overwrite: replace what is there of the grid's runs instead of going on with them.

    Raises:
        UserError: the configuration or anything it names does not work, or a run of another configuration lies there.
        Interrupted: a signal asked to stop; a checkpoint holds what was done.
    """
    console = console or default_console()
    require_packages(config.log)
    planned = config.runs()
    if not overwrite:
        require_same(planned)
    missing = [run for run in planned if overwrite or not (run.out / EVALUATION).exists()]
    if missing:
        inputs = open_inputs(config, console)
        if len(inputs.hookpoints) > 1 and not config.autoencoder.crosscoder:
            raise UserError(f"A frontier has one hookpoint, not {', '.join(inputs.hookpoints)}; give one.")
        prepare(missing, overwrite=overwrite)
        write_atomically(config.out / FRONTIER, to_toml(config).encode())
        how_to_go_on = "the same command, without --overwrite" if overwrite else "the same command"
        groups = in_groups(missing, config.together)
        for number, group in enumerate(groups, start=1):
            names = ", ".join(run.out.name for run in group)
            console.print(f"Group {number} of {len(groups)}: {names}", highlight=False, soft_wrap=True)
            train_and_evaluate(group, inputs, console, how_to_go_on)
    samples, seed = config.evaluation.bootstrap_samples, config.training.seed
    return compare([run.out for run in planned], config.out, samples=samples, seed=seed, console=console)
