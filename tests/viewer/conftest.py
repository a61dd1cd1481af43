"""Tiny runs to index, written without training: random autoencoders of every kind on a tiny subject; and a browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages_browser import browser, exported_site, site
from random_autoencoders import LENGTH, random_autoencoder, site_of

from monosem.evaluation.basics import EvaluationConfig
from monosem.runs.config import RunConfig
from monosem.runs.directory import write_config
from monosem.sae.site import Provenance
from monosem.sae.storage import save_autoencoder
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.trainer import TrainingConfig

__all__ = ["browser", "exported_site", "site"]


@pytest.fixture(autouse=True)
def _in_whole_jobs(whole_jobs: None) -> None: ...


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
