"""Effects on the logits: exact where nothing stands between the site and the final norm, and mean over tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Provenance, Widths
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel
from monosem.viewer import logit_effects
from monosem.viewer.logit_effects import DirectPath, final_norm, find_direct_path, find_effects, why_no_effects

NORMS = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "llama": "model.norm",
    "mistral": "model.norm",
    "qwen2": "model.norm",
    "opt": "model.decoder.final_layer_norm",
}
LAST = {"gpt2": "transformer.h.2", "llama": "model.layers.2"}


def subject_of(make_model: Callable[..., Any], architecture: str) -> SubjectModel:
    return SubjectModel(model=make_model(architecture), tokenizer=None, name=architecture)


def autoencoder(site: tuple[str, ...], target: str | None = None, **settings: Any) -> Autoencoder:
    widths = Widths((16,) * len(site), None if target is None else 16)
    sae = new_autoencoder(AutoencoderConfig(n_latents=11, k=3, **settings), widths)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    if sae.is_transcoder:
        sae.target_scale.data.fill_(2.5)
    sae.provenance = Provenance(model="m", revision=None, hookpoints=site, target=target, context_length=7)
    return sae


def blocks_of(tokens: Tensor, kept: Tensor) -> Blocks:
    return Blocks(tokens, kept, torch.arange(tokens.numel()).view_as(tokens))


def effects_by_autograd(sae: Autoencoder, subject: SubjectModel, tokens: Tensor, block: int, position: int) -> Tensor:
    """The derivative of a token's logits in the activation of each latent there: ``[latents, vocabulary]``."""
    site = sae.provenance.site
    x = site.read(subject.capture(tokens[block : block + 1], site.inputs))[0, position]
    codes = sae.encode(x[None])

    def logits(latents: Tensor) -> Tensor:
        change = latents @ sae.W_dec.detach()
        raw = change * (sae.target_scale.detach() if sae.is_transcoder else codes.norm[0])
        where = torch.zeros(1, tokens.shape[1], dtype=torch.bool)
        where[0, position] = True
        with subject.replace(site.outputs[0], lambda value: value + raw, where=where):
            return subject.logits(tokens[block : block + 1], differentiable=True)[0, position]

    return torch.autograd.functional.jacobian(logits, torch.zeros(sae.n_latents)).T


@pytest.mark.parametrize("preprocess", ["unit_norm", "layer_norm", "none"])
@pytest.mark.parametrize("architecture", LAST)
def test_at_the_last_block_the_effect_at_one_token_is_the_derivative(
    make_model: Callable[..., Any], tokens: Tensor, architecture: str, preprocess: str
) -> None:
    subject = subject_of(make_model, architecture)
    sae = autoencoder((LAST[architecture],), preprocess=preprocess)
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    kept[3, 4] = True
    path = find_direct_path(sae, subject, blocks_of(tokens, kept))
    found = sae.W_dec @ path.to_head.T @ path.unembedding.T
    torch.testing.assert_close(found, effects_by_autograd(sae, subject, tokens, 3, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", LAST)
@pytest.mark.parametrize("kind", ["autoencoder", "transcoder"])
def test_the_effect_is_the_mean_of_the_derivatives_over_the_tokens(
    make_model: Callable[..., Any], tokens: Tensor, architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logit_effects, "_ELEMENTS", 500)
    subject, last = subject_of(make_model, architecture), LAST[architecture]
    sae = autoencoder((last,)) if kind == "autoencoder" else autoencoder((last.replace("2", "0"),), last)
    kept = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    path = find_direct_path(sae, subject, blocks_of(tokens, kept))
    places = kept.nonzero().tolist()
    assert len(places) > 5
    expected = torch.stack([effects_by_autograd(sae, subject, tokens, *place) for place in places]).mean(dim=0)
    found = sae.W_dec @ path.to_head.T @ path.unembedding.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("elements", [1, 100, 10**6])
def test_the_strongest_effects_are_found_in_pieces_of_the_vocabulary(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logit_effects, "_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    W_dec, to_head, unembedding = (torch.randn(*shape, generator=generator) for shape in ((5, 4), (3, 4), (101, 3)))
    found = find_effects(W_dec, DirectPath(to_head, unembedding), 7)
    effects = W_dec @ to_head.T @ unembedding.T
    torch.testing.assert_close(found.raised, effects.topk(7).values)
    torch.testing.assert_close(found.lowered, -(-effects).topk(7).values)
    torch.testing.assert_close(effects.gather(1, found.promoted), found.raised)
    torch.testing.assert_close(effects.gather(1, found.suppressed), found.lowered)
    assert all(len(set(row)) == 7 for row in [*found.promoted.tolist(), *found.suppressed.tolist()])


def test_a_vocabulary_may_be_smaller_than_what_is_asked() -> None:
    path = DirectPath(torch.eye(3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert find_effects(torch.ones(2, 3), path, 10).promoted.shape == (2, 4)


@pytest.mark.parametrize("architecture", NORMS)
def test_the_final_norm_is_found(make_model: Callable[..., Any], architecture: str) -> None:
    subject = subject_of(make_model, architecture)
    assert final_norm(subject) == NORMS[architecture]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())


class Wrapped(nn.Module):
    """A module, and something behind it."""

    def __init__(self, first: nn.Module, second: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_what_passes_on_its_input_is_not_the_final_norm(make_model: Callable[..., Any]) -> None:
    subject = subject_of(make_model, "gpt2")
    subject.model.transformer.ln_f = Wrapped(subject.model.transformer.ln_f, nn.Dropout()).eval()
    found = final_norm(subject)
    assert found == "transformer.ln_f"
    sae = autoencoder(("transformer.h.2",))
    tokens = torch.randint(4, 60, (1, 7), generator=torch.Generator().manual_seed(1))
    path = find_direct_path(sae, subject, blocks_of(tokens, torch.ones_like(tokens, dtype=torch.bool)))
    expected = torch.stack([effects_by_autograd(sae, subject, tokens, 0, place) for place in range(7)]).mean(dim=0)
    found = sae.W_dec @ path.to_head.T @ path.unembedding.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_a_direct_path_it_says_why(make_model: Callable[..., Any]) -> None:
    subject = subject_of(make_model, "gpt2")
    assert why_no_effects(autoencoder(("transformer.h.1",)), subject) is None
    assert why_no_effects(autoencoder(("transformer.h.1",), "transformer.h.2"), subject) is None
    crosscoder = autoencoder(("transformer.h.0", "transformer.h.1"), crosscoder=True)
    assert why_no_effects(crosscoder, subject) == "the autoencoder gives activations of several hookpoints"
    wide = new_autoencoder(AutoencoderConfig(n_latents=11, k=3), 64)
    wide.provenance = Provenance(model="m", revision=None, hookpoints=("transformer.h.1.mlp.c_fc",), context_length=7)
    assert why_no_effects(wide, subject) == "transformer.h.1.mlp.c_fc is 64 wide and the residual stream 16"
    head = subject.model.lm_head
    head.register_forward_pre_hook(lambda _, args: (2 * args[0],))  # what it reads is no module's output any more
    assert "no module between" in str(why_no_effects(autoencoder(("transformer.h.1",)), subject))
