"""One seed for a run; every consumer derives its own generator from it."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, independent of every other purpose's."""
    name = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def derive_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, as in ``derive_generator(config.seed, "shuffle", chunk)``."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
