"""monosem: train, scale, evaluate and browse sparse autoencoders on the activations of language models.

The names below are imported when first used, so that ``import monosem`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from monosem.errors import UserError as UserError
    from monosem.runs.cache import cache as cache
    from monosem.runs.compare import compare as compare
    from monosem.runs.config import CacheConfig as CacheConfig
    from monosem.runs.config import FrontierConfig as FrontierConfig
    from monosem.runs.config import RunConfig as RunConfig
    from monosem.runs.evaluate import evaluate as evaluate
    from monosem.runs.frontier import frontier as frontier
    from monosem.runs.train import resume as resume
    from monosem.runs.train import train as train
    from monosem.sae.config import AutoencoderConfig as AutoencoderConfig
    from monosem.sae.interventions import Intervention as Intervention
    from monosem.sae.storage import load_autoencoder as load
    from monosem.subject.loading import load_subject as load_subject
    from monosem.subject.model import SubjectConfig as SubjectConfig
    from monosem.subject.text import TextConfig as TextConfig
    from monosem.training.trainer import TrainingConfig as TrainingConfig

_HOMES = {
    "AutoencoderConfig": "monosem.sae.config:AutoencoderConfig",
    "CacheConfig": "monosem.runs.config:CacheConfig",
    "FrontierConfig": "monosem.runs.config:FrontierConfig",
    "Intervention": "monosem.sae.interventions:Intervention",
    "RunConfig": "monosem.runs.config:RunConfig",
    "SubjectConfig": "monosem.subject.model:SubjectConfig",
    "TextConfig": "monosem.subject.text:TextConfig",
    "TrainingConfig": "monosem.training.trainer:TrainingConfig",
    "UserError": "monosem.errors:UserError",
    "cache": "monosem.runs.cache:cache",
    "compare": "monosem.runs.compare:compare",
    "evaluate": "monosem.runs.evaluate:evaluate",
    "frontier": "monosem.runs.frontier:frontier",
    "load": "monosem.sae.storage:load_autoencoder",
    "load_subject": "monosem.subject.loading:load_subject",
    "resume": "monosem.runs.train:resume",
    "train": "monosem.runs.train:train",
}

__all__ = ["__version__", "load", *sorted(set(_HOMES) - {"load"})]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monosem' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
