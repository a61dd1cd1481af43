"""Time N2G: how many latents a second are explained, and what the subject model has to run for it.

    python -m benchmarks.n2g --run runs/quickstart
    python -m benchmarks.n2g --run runs/quickstart --longest-suffix 16 --dtype bfloat16

Explanations are built from random activations of random living latents in held-out text; reading that text first and
scoring afterwards are not in the time. Tokens a latent depend on the autoencoder and the settings alone, so that they
compare on a busy machine too; latents a second and tokens a second need an idle one.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

import monosem
from benchmarks.record import show_row
from monosem.evaluation.n2g import build
from monosem.evaluation.n2g.examples import Firings, collect_examples, read_firings, text_of
from monosem.evaluation.sample import Sample, take_sample
from monosem.sae.autoencoder import Autoencoder
from monosem.subject.blocks import EvenBlocks
from monosem.subject.model import SubjectModel
from monosem.subject.tokens import special_token_ids, tokenize_text

RESULTS = Path("benchmarks/results/n2g.jsonl")


@dataclass(frozen=True)
class Options:
    """What to time."""

    run: str
    """A run directory with an autoencoder of the bundled subject."""
    latents: int = 256
    """Latents to explain."""
    examples: int = 16
    """Activating tokens a latent."""
    tokens: int = 100_000
    """Held-out tokens to find them in."""
    longest_suffix: int | None = None
    """As in N2GConfig."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The subject's precision."""
    record: bool = True
    """Append the row to benchmarks/results/n2g.jsonl."""


class CountingSubject(SubjectModel):
    """A subject that counts the tokens it runs."""

    tokens_run = 0

    def _forward(self, tokens: torch.Tensor) -> Any:
        CountingSubject.tokens_run += tokens.numel()
        return super()._forward(tokens)


def held_out_sample(subject: SubjectModel, tokens: int, context_length: int) -> Sample:
    split = tokenize_text(monosem.TextConfig(), subject.tokenizer, limit=None).held_out
    special = special_token_ids(subject.tokenizer)
    blocks = EvenBlocks(split, context_length=context_length, special_ids=special, max_tokens=None).all()
    return take_sample(blocks, torch.from_numpy(split.document_of(blocks.positions)), blocks.kept, tokens)


def find_examples(
    options: Options, sae: Autoencoder, subject: SubjectModel, sample: Sample
) -> tuple[list[int], dict[str, Firings]]:
    """Random living latents, and random activations of each."""
    assert sae.provenance is not None
    firings = list(read_firings(sae, subject, sae.provenance.site, sample, lambda _: None))
    alive = torch.cat([batch.latents for _, batch in firings]).unique()
    drawn = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[: options.latents]]
    examples = collect_examples(iter(firings), drawn, sae.n_latents, options.examples, 0)
    return drawn.tolist(), {"random": examples["random"]}


def measure(options: Options) -> dict[str, Any]:
    sae = monosem.load(options.run)
    assert sae.provenance is not None
    loaded = monosem.load_subject(monosem.SubjectConfig(dtype=options.dtype))
    subject = CountingSubject(model=loaded.model, tokenizer=loaded.tokenizer, name=loaded.name, bos_id=loaded.bos_id)
    sample = held_out_sample(subject, options.tokens, sae.provenance.context_length)
    latents, examples = find_examples(options, sae, subject, sample)
    text, padding = text_of(sample, subject), build.padding_token(subject, None)
    site, longest = sae.provenance.site, options.longest_suffix
    CountingSubject.tokens_run = 0
    began, cpu_began = time.perf_counter(), time.process_time()
    explained = list(build.explain_latents(sae, subject, site, text, examples, latents, padding, longest))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    found = len(examples["random"].latents)
    return {
        **{name: value for name, value in asdict(options).items() if name not in ("run", "record")},
        "n_latents": sae.n_latents,
        "explained": len(explained),
        "examples_found": found,
        "examples_with_pattern": sum(each.examples("random") for each in explained),
        "tokens_per_latent": round(CountingSubject.tokens_run / len(explained)),
        "tokens_per_cpu_second": round(CountingSubject.tokens_run / cpu_seconds),
        "latents_per_cpu_second": round(len(explained) / cpu_seconds, 2),
        "latents_per_second": round(len(explained) / seconds, 2),
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with torch.no_grad():
        row = measure(options)
    show_row(row, RESULTS if options.record else None)


if __name__ == "__main__":
    main()
