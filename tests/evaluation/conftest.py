"""A tiny subject with random weights, blocks of random tokens in a few documents, and a random autoencoder."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem.evaluation.suite import EvaluationConfig
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder, AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

LENGTH, VOCABULARY = 12, 50


@pytest.fixture(scope="session")
def hookpoint() -> str:
    return "transformer.h.1"


@pytest.fixture(scope="session")
def subject() -> SubjectModel:
    torch.manual_seed(1)
    config = GPT2Config(
        n_layer=3,
        n_embd=16,
        n_head=2,
        n_positions=16,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return SubjectModel(model=GPT2LMHeadModel(config), tokenizer=None, name="tiny")


@pytest.fixture(scope="session")
def blocks(subject: SubjectModel) -> Blocks:
    """Text drawn from the subject itself, so that taking something from it hurts; token 0 is special."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, VOCABULARY, (30, 1), generator=generator)
    for _ in range(LENGTH - 1):
        odds = subject.logits(tokens)[:, -1].softmax(dim=1)
        tokens = torch.cat([tokens, torch.multinomial(odds, 1, generator=generator)], dim=1)
    positions = 100 + torch.arange(tokens.numel()).view_as(tokens)
    return Blocks(tokens, tokens != 0, positions)


@pytest.fixture(scope="session")
def documents(blocks: Blocks) -> torch.Tensor:
    """Seven documents of unequal length, which end anywhere in a block; their numbers are not 0 to 6."""
    ends = torch.tensor([130, 150, 211, 260, 333, 390])
    return 3 + 2 * torch.searchsorted(ends, blocks.positions, right=True)


@pytest.fixture
def sae(subject: SubjectModel, hookpoint: str, blocks: Blocks) -> Autoencoder:
    sae = new_autoencoder(AutoencoderConfig(n_latents=40, k=4), subject.d_model)
    x = sae.preprocess(subject.capture(blocks.tokens, [hookpoint])[hookpoint].flatten(0, 1)).x
    initialise(sae, x, InitialiseConfig(), torch.Generator().manual_seed(3))
    sae.b_enc.data.fill_(-0.2)  # so that the ReLU zeroes some kept values
    sae.b_enc.data[:3] = -9  # dead
    return sae


@pytest.fixture(scope="session")
def config() -> EvaluationConfig:
    return EvaluationConfig(eval_tokens=10**6, downstream_tokens=10**6, bootstrap_samples=50)
