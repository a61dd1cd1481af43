"""Random autoencoders of every kind on a tiny subject, and where in it they belong."""

from typing import Any

import torch

from any_autoencoder import initialised, scatter
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

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
    sae, x = initialised(kind, site, captured, generator, **settings)
    scatter(sae, ("r_mag", "b_mag", "W_skip"), generator)
    pre_activations = sae.pre_activations(x).detach()
    if hasattr(sae, "threshold"):
        sae.threshold.data.fill_(float(pre_activations.quantile(0.9)))
    if hasattr(sae, "log_threshold"):
        sae.log_threshold.data.fill_(float(pre_activations.quantile(0.9).log()))
    shifts = 0.5 * torch.rand(sae.b_enc.shape, generator=generator)
    sae.b_enc.data.sub_(pre_activations.std() * shifts)
    sae.b_enc.data[: sae.n_latents // 20] = -9  # dead
    return sae.eval().requires_grad_(False)
