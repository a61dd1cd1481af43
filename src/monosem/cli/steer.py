"""``monosem steer``: what the subject model says with some latents at other values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import show_steered
from monosem.errors import UserError
from monosem.runs.steering import SteerableRun, open_steerable, steered
from monosem.sae.interventions import How, Intervention
from monosem.subject.generation import Sampling

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Continue a text as the subject does, and as it does with some latents at other values.

    monosem steer runs/first --latent 123 --strength 4x "def main():"
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""
    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
    """The text to continue."""
    latent: tuple[int, ...]
    """The latents to change."""
    strength: tuple[str, ...] = ()
    """One for each latent, or one for all: in the latent's activation units, as 0.8; or as multiples of its largest
    seen activation, as 4x; of scale a factor. ablate takes none."""
    how: How = "add"
    """What becomes of a latent's value z: z + strength, strength, 0, or strength times z."""
    drop_error: bool = False
    """Change the autoencoder's reconstruction instead of the activations themselves."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)


def main(arguments: list[str], console: "Console") -> None:
    """Parse, load, steer, print."""
    command: Steer = parse(Steer, arguments, "steer")
    run = open_steerable(command.run)
    latents = _interventions(command, run)
    ids = run.subject.tokenizer.encode(command.text, add_special_tokens=False, verbose=False)
    found = steered(run.subject, run.sae, ids, latents, command.sampling, keep_error=not command.drop_error)
    show_steered(found, command.text, latents, run.subject.tokenizer)


def _interventions(command: Steer, run: SteerableRun) -> dict[int, Intervention]:
    latents, strengths = command.latent, command.strength
    if len(set(latents)) < len(latents) or not latents:
        raise UserError(f"latent={list(latents)} must name latents, each once.")
    if command.how == "ablate":
        if strengths:
            raise UserError(f"strength={strengths[0]} is not used by --how ablate; leave it out.")
        return {latent: Intervention("ablate") for latent in latents}
    if len(strengths) not in (1, len(latents)):
        raise UserError(
            f"There are {len(latents)} latents and {len(strengths)} strengths; give one for all, or one for each."
        )
    each = strengths * len(latents) if len(strengths) == 1 else strengths
    numbers = [_number(strength, command.how, latent, run) for latent, strength in zip(latents, each, strict=True)]
    return {latent: Intervention(command.how, number) for latent, number in zip(latents, numbers, strict=True)}


def _number(strength: str, how: How, latent: int, run: SteerableRun) -> float:
    """A strength in the latent's units; ``4x`` is four times its largest seen activation."""
    is_multiple = strength.endswith("x")
    try:
        number = float(strength.removesuffix("x"))
    except ValueError:
        raise UserError(f"strength={strength} is no number; give one as 0.8, or a multiple as 4x.") from None
    if not is_multiple or how == "scale":
        return number
    if run.largest is None:
        raise UserError(
            f"strength={strength} is a multiple of the largest seen activation, and the run was not evaluated; "
            "evaluate it with `monosem eval`, or give the strength in the latent's units."
        )
    if not 0 <= latent < len(run.largest):
        raise UserError(f"latent={latent} is out of range; this autoencoder has latents 0 … {len(run.largest) - 1}.")
    largest = float(run.largest[latent])
    if largest == 0:
        raise UserError(
            f"strength={strength} is a multiple of the largest seen activation, and latent {latent} never fired; "
            "give the strength in the latent's units."
        )
    return number * largest
