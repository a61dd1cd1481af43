"""A tiny subject with random weights, blocks of random tokens in a few documents, and a random autoencoder.

And runs to compare, measured on random documents.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from any_autoencoder import KINDS, initialised, scatter
from monosem.evaluation.basics import EvaluationConfig
from monosem.evaluation.comparison import Run, measure
from monosem.evaluation.document_sums import DocumentSums
from monosem.evaluation.downstream import new_downstream_sums
from monosem.evaluation.reconstruction import new_reconstruction_sums
from monosem.evaluation.sample import Sample, take_sample
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

LENGTH, VOCABULARY = 12, 50


@pytest.fixture(params=KINDS)
def coder(request: pytest.FixtureRequest, make_coder: "Callable[..., tuple[Autoencoder, Site]]"):
    """A random autoencoder and its site, of every architecture; a transcoder with and without skip; a crosscoder."""
    return make_coder(request.param)


@pytest.fixture(scope="session")
def sample(blocks: Blocks, documents: torch.Tensor) -> Sample:
    """All of the blocks, some of their positions left out."""
    kept = blocks.kept & (blocks.tokens % 7 != 1)
    assert not kept.all()
    return take_sample(blocks._replace(kept=kept), documents, kept, 10**6)


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


@pytest.fixture
def make_coder(subject: SubjectModel, blocks: Blocks) -> Callable[..., tuple[Autoencoder, Site]]:
    """Makes a random autoencoder and its site, of KINDS: ``make_coder("relu", n_latents=40)``."""

    def make(kind: str, **settings: Any) -> tuple[Autoencoder, Site]:
        site = {
            "transcoder": Site(("transformer.h.1",), "transformer.h.2.mlp.c_fc"),
            "skip": Site(("transformer.h.1",), "transformer.h.2.mlp.c_fc"),
            "crosscoder": Site(("transformer.h.0", "transformer.h.2")),
        }.get(kind, Site(("transformer.h.1",)))
        captured = subject.capture(blocks.tokens, site.hookpoints)
        generator = torch.Generator().manual_seed(3)
        sae, _ = initialised(kind, site, captured, generator, **settings)
        scatter(sae, ("b_enc", "r_mag", "b_mag", "W_skip"), generator)
        if hasattr(sae, "threshold"):
            sae.threshold.data.fill_(0.2)
        return sae.eval().requires_grad_(False), site

    return make


@pytest.fixture(scope="session")
def config() -> EvaluationConfig:
    return EvaluationConfig(eval_tokens=10**6, downstream_tokens=10**6, bootstrap_samples=50)


@pytest.fixture
def document_sums() -> Callable[..., DocumentSums]:
    """Makes the sums of a run whose errors are so many times those of the run of 1, document by document."""

    def make(error: float = 1.0, l0: float = 8.0, n_documents: int = 40) -> DocumentSums:
        generator = torch.Generator().manual_seed(5)

        def random() -> Tensor:
            return torch.rand(n_documents, generator=generator, dtype=torch.float64)

        activations = new_reconstruction_sums(n_documents, (4,))
        activations["tokens"] += (20 + 40 * random()).round()
        activations["squared_norm"] += activations["tokens"]
        activations["x"] += torch.randn(n_documents, 4, generator=generator, dtype=torch.float64)
        activations["squared_error"] += error * activations["tokens"] * (0.05 + random().square())
        activations["active"] += l0 * activations["tokens"]
        next_tokens = new_downstream_sums(n_documents)
        next_tokens["tokens"] += activations["tokens"] - 3
        next_tokens["cross_entropy"] += 2 * next_tokens["tokens"] * random()
        increase = 0.3 * next_tokens["tokens"] * random()
        next_tokens["cross_entropy_reconstruction"] += next_tokens["cross_entropy"] + error * increase
        return DocumentSums(activations, next_tokens)

    return make


@pytest.fixture
def make_run(document_sums: Callable[..., DocumentSums]) -> Callable[..., Run]:
    """Makes a run: ``make_run("topk", 8, error=2)``."""

    def make(curve: str, l0: float, error: float = 1.0, n_documents: int = 40) -> Run:
        measured = measure(document_sums(error, l0, n_documents), samples=200, seed=3)
        return Run(name=f"runs/{curve}-{l0:g}", curve=curve, settings={"k": 4}, dead_share=0.25, measured=measured)

    return make
