"""The architectures by name. A new one is a class and a line here; the contract tests find it."""

import difflib

from monosem.errors import UserError
from monosem.sae.autoencoder import Autoencoder, AutoencoderConfig, TopKAutoencoder

ARCHITECTURES: dict[str, type[Autoencoder]] = {
    "topk": TopKAutoencoder,
}


def require_architecture(name: str) -> None:
    """Refuse an architecture that is not in ARCHITECTURES.

    Raises:
        UserError: it is unknown; names the known ones and a near match.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"Unknown architecture '{name}'. Known: {', '.join(sorted(ARCHITECTURES))}.{hint}")


def new_autoencoder(config: AutoencoderConfig, d_model: int) -> Autoencoder:
    """An autoencoder of the configured architecture, its weights all zero: initialise or load them next.

    Raises:
        UserError: the architecture is unknown.
    """
    require_architecture(config.architecture)
    return ARCHITECTURES[config.architecture](config, d_model)
