"""Tiny runs to index, written without training: random autoencoders of every kind on a tiny subject; and a browser."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pages_browser import browser, exported_site, site
from rich.console import Console

from monosem.evaluation.basics import EvaluationConfig
from monosem.runs.config import RunConfig
from monosem.runs.directory import write_config
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.site import Provenance, Site, Widths
from monosem.sae.storage import save_autoencoder
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig, SubjectModel
from monosem.subject.text import TextConfig
from monosem.training.trainer import TrainingConfig

__all__ = ["browser", "exported_site", "site"]

KINDS = (*sorted(ARCHITECTURES), "transcoder", "skip", "crosscoder")
LENGTH = 16


@pytest.fixture(autouse=True)
def _in_whole_jobs(whole_jobs: None) -> None: ...


@pytest.fixture
def console() -> Console:
    """Writes to a string: see ``shown``."""
    return Console(file=io.StringIO(), width=80)


@pytest.fixture
def shown(console: Console) -> Callable[[], str]:
    """All that was shown so far."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue


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


@pytest.fixture
def make_run(tmp_path: Path, tiny_subject: Path, tiny_text: Path) -> Callable[..., Path]:
    """Writes a run: ``make_run("relu", n_latents=100)``."""

    def make(kind: str = "topk", name: str = "run", subject: Path = tiny_subject, **settings: Any) -> Path:
        site = site_of(kind)
        subject_config = SubjectConfig(
            subject=str(subject), device="cpu", context_length=LENGTH, hookpoint=site.inputs, target=site.target
        )
        loaded = load_subject(subject_config)
        sae = random_autoencoder(kind, loaded, **settings)
        sae.provenance = Provenance(
            model=loaded.name,
            revision=loaded.revision,
            hookpoints=site.inputs,
            target=site.target,
            context_length=LENGTH,
        )
        sae.training_summary = {"tokens": 1930, "seed": 0, "loss": 0.25, "l0": 4.0}
        config = RunConfig(
            out=tmp_path / name,
            subject=subject_config,
            text=TextConfig(text=(str(tiny_text),)),
            autoencoder=sae.config,
            training=TrainingConfig(target_l0=4.0 if sae.has_penalty else None),
            evaluation=EvaluationConfig(eval_tokens=400, downstream_tokens=100, bootstrap_samples=10),
        )
        config.out.mkdir()
        write_config(config)
        save_autoencoder(sae, config.out / "sae")
        return config.out

    return make
