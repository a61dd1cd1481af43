"""Every purpose has its own stream of random numbers, the same on every machine."""

import itertools

import torch

from monosem.randomness import derive_generator, derive_seed


def test_seeds_never_change() -> None:
    # printf 0/shuffle/0 | b2sum -l 64, halved
    assert derive_seed(0, "shuffle", 0) == 5846905486456240468
    assert derive_seed(7) == 8333924190356522945


def test_no_two_purposes_share_a_seed() -> None:
    purposes = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", 10), ("a", "b")]
    seeds = [derive_seed(seed, *purpose) for seed, purpose in itertools.product(range(50), purposes)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_depends_on_nothing_but_its_seed_and_purpose() -> None:
    before = torch.random.get_rng_state()
    first = torch.randn(5, generator=derive_generator(3, "x"))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(5, generator=derive_generator(3, "x")))
    assert not torch.equal(first, torch.randn(5, generator=derive_generator(4, "x")))
    torch.random.set_rng_state(before)
