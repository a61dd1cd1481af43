"""The architectures by name. A new one is a class and a line here; the contract tests find it."""

import difflib
from collections.abc import Sequence
from typing import Any

from monosem.errors import UserError
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.penalised import GatedAutoencoder, JumpReLUAutoencoder, ProLUAutoencoder, ReLUAutoencoder
from monosem.sae.site import Widths
from monosem.sae.topk import BatchTopKAutoencoder, MatryoshkaAutoencoder, TopKAutoencoder

ARCHITECTURES: dict[str, type[Autoencoder]] = {
    "batch_topk": BatchTopKAutoencoder,
    "gated": GatedAutoencoder,
    "jumprelu": JumpReLUAutoencoder,
    "matryoshka": MatryoshkaAutoencoder,
    "prolu": ProLUAutoencoder,
    "relu": ReLUAutoencoder,
    "topk": TopKAutoencoder,
}


def require_known(name: str) -> None:
    """Refuse a name that is not in ARCHITECTURES.

    Raises:
        UserError: names the known ones and a near match.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"Unknown architecture '{name}'. Known: {', '.join(sorted(ARCHITECTURES))}.{hint}")


def require_architecture(config: AutoencoderConfig) -> None:
    """Refuse an architecture that is not in ARCHITECTURES, and settings that do not fit it.

    Raises:
        UserError: it is unknown, or a setting is too large or of another's.
    """
    require_known(config.architecture)
    if "k" in ARCHITECTURES[config.architecture].settings and config.k > config.n_latents:
        raise UserError(f"k={config.k} exceeds n_latents={config.n_latents}; lower k or raise n_latents.")
    if "prefixes" in ARCHITECTURES[config.architecture].settings and round(config.prefixes[0] * config.n_latents) < 1:
        raise UserError(f"prefixes={list(config.prefixes)} begin with no latent of n_latents={config.n_latents}.")
    require_used(config, (config.architecture,))


def require_used(config: AutoencoderConfig, architectures: Sequence[str]) -> None:
    """Refuse settings that none of these architectures uses.

    Raises:
        UserError: names the setting and who uses it.
    """
    defaults = AutoencoderConfig()
    for setting in sorted(others_settings(architectures)):
        if (value := getattr(config, setting)) != getattr(defaults, setting):
            users = sorted(other for other, its in ARCHITECTURES.items() if setting in its.settings)
            names = ", ".join(f"'{name}'" for name in architectures)
            who = f"architecture {names}, only by {', '.join(users)}"
            raise UserError(f"{setting}={value} would not be used by {who}; leave it out.")


def others_settings(architectures: Sequence[str]) -> frozenset[str]:
    """The settings that are some architecture's own, but of none of these."""
    own = frozenset[str]().union(*(ARCHITECTURES[name].settings for name in architectures))
    return frozenset[str]().union(*(architecture.settings for architecture in ARCHITECTURES.values())) - own


def own_settings(config: AutoencoderConfig, architecture: str) -> dict[str, Any]:
    """Those of the settings that are this architecture's own."""
    return {name: getattr(config, name) for name in ARCHITECTURES[architecture].settings}


def new_autoencoder(config: AutoencoderConfig, widths: int | Widths) -> Autoencoder:
    """An autoencoder of the configured architecture, its weights all zero: initialise or load them next.

    Args:
        widths: d_model; or those of a crosscoder's hookpoints, of a transcoder's input and target.

    Raises:
        UserError: the architecture is unknown, or a setting is not its own.
    """
    require_architecture(config)
    if isinstance(widths, int):
        widths = Widths((widths,))
    if config.skip and widths.target is None:
        raise UserError("skip=True is for transcoders; leave it out, or give a target.")
    if len(widths.inputs) > 1 and not config.crosscoder:
        raise UserError(f"crosscoder=False and there are {len(widths.inputs)} hookpoints to read; set crosscoder.")
    return ARCHITECTURES[config.architecture](config, widths)
