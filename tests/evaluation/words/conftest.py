"""An autoencoder with planted latents: each fires on one token, whatever stands around it."""

import pytest
from torch import Tensor

from monosem.evaluation.sample import Sample, take_sample
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

PLANTED = 3


@pytest.fixture
def whole(blocks: Blocks, documents: Tensor) -> Sample:
    return take_sample(blocks, documents, blocks.kept, 10**6)


@pytest.fixture
def planted_tokens(blocks: Blocks) -> list[int]:
    """The commonest tokens, by latent."""
    return blocks.tokens[blocks.kept].bincount(minlength=50).argsort(descending=True)[:PLANTED].tolist()


@pytest.fixture
def planted(subject: SubjectModel, planted_tokens: list[int]) -> Autoencoder:
    """Reads the embeddings: along a direction that one token alone exceeds. The last latent never fires."""
    config = AutoencoderConfig(architecture="relu", n_latents=PLANTED + 1, preprocess="none")
    sae = new_autoencoder(config, subject.d_model)
    embeddings = subject.model.transformer.wte.weight
    sae.W_enc.data.zero_()
    sae.b_enc.data.fill_(-1)
    for latent, token in enumerate(planted_tokens):
        direction = (embeddings[token] - embeddings.mean(dim=0)).detach()
        reached = embeddings.detach() @ direction
        others = reached[[other for other in range(len(reached)) if other != token]].max()
        assert others < reached[token]
        sae.W_enc.data[latent] = direction
        sae.b_enc.data[latent] = -(others + reached[token]) / 2
    return sae.eval().requires_grad_(False)
