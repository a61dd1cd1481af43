"""Random autoencoders of every kind on a tiny subject, and where in it they belong."""

from typing import Any

import torch

from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.site import Site, Widths
from monosem.subject.model import SubjectModel

KINDS = (*sorted(ARCHITECTURES), "transcoder", "skip", "crosscoder")
LENGTH = 16


def site_of(kind: str) -> Site:
    return {
        "transcoder": Site(("transformer.h.1",), "transformer.h.2"),
        "skip": Site(("transformer.h.1",), "transformer.h.2.mlp.c_fc"),
        "crosscoder": Site(("transformer.h.0", "transformer.h.2")),
    }.get(kind, Site(("transformer.h.2",)))


def random_autoencoder(kind: str, subject: SubjectModel, **settings: Any) -> Autoencoder:
    """One of KINDS with random weights, a twentieth of whose latents are dead."""
    site = site_of(kind)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, 60, (40, LENGTH), generator=generator)
    captured = subject.capture(tokens, site.hookpoints)
    width = {name: each.shape[-1] for name, each in captured.items()}
    architecture = kind if kind in ARCHITECTURES else "topk"
    sparsity = {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    config = AutoencoderConfig(
        architecture=architecture,
        skip=kind == "skip",
        crosscoder=kind == "crosscoder",
        **({"n_latents": 40} | sparsity | settings),
    )
    widths = Widths(tuple(width[name] for name in site.inputs), width[site.target] if site.target else None)
    sae = new_autoencoder(config, widths)
    read, wanted = (each.flatten(0, 1) for each in (site.read(captured), site.wanted(captured)))
    if sae.is_transcoder:
        sae.target_scale.data.fill_(3.0)
    x, y = sae.training_pair(read, wanted)
    initialise(sae, x, InitialiseConfig(), generator, y if sae.is_transcoder else None)
    for name in ("r_mag", "b_mag", "W_skip"):
        if hasattr(sae, name):
            parameter = getattr(sae, name)
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    pre_activations = sae.pre_activations(x).detach()
    if hasattr(sae, "threshold"):
        sae.threshold.data.fill_(float(pre_activations.quantile(0.9)))
    if hasattr(sae, "log_threshold"):
        sae.log_threshold.data.fill_(float(pre_activations.quantile(0.9).log()))
    shifts = 0.5 * torch.rand(sae.b_enc.shape, generator=generator)
    sae.b_enc.data.sub_(pre_activations.std() * shifts)
    sae.b_enc.data[: config.n_latents // 20] = -9  # dead
    return sae.eval().requires_grad_(False)
