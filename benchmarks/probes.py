"""Time the probes of many tasks, from the activations on.

    python -m benchmarks.probes
    OMP_NUM_THREADS=1 python -m benchmarks.probes --tasks 10 --no-record

Each task has its own examples, half of them for training, each of a document of its own: random activations with a
falling spectrum, labelled by a noisy direction. Timed are, summed over tasks, what ``measure_probes`` does after it has
read the activations: the best latent's probe, the best channel's, the logistic regression on all channels; and the
intervals. Beside them, of the first, the encoder's products alone. The compiler's time is left out. The processor's
seconds, of all threads together, tell on a machine with other work what the wall clock does not.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import append_row
from benchmarks.step import peak_resident_bytes
from monosem.evaluation.probe_fits import TaskExamples, best_probe, constant_probe, linear_probe, split_examples
from monosem.evaluation.probes import ProbeConfig, resample_means
from monosem.evaluation.tasks.task import Task

RESULTS = Path("benchmarks/results/probes.jsonl")
NAMES = {
    "latent": "best latent",
    "product": "… its products alone",
    "channel": "best channel",
    "linear": "all channels",
    "intervals": "intervals",
    "whole": "in all",
}


@dataclass(frozen=True)
class Options:
    """What to time."""

    d_model: int = 256
    """Width of the activations."""
    n_latents: int = 32768
    """Size of the dictionary."""
    tasks: int = 61
    """Each of examples of its own."""
    examples: int = 2000
    """Of each task, every other one for training."""
    device: str = "cpu"
    """Where the encoder lies: cpu or cuda."""
    json: bool = False
    """Print the row as JSON instead of the table."""
    record: bool = True
    """Append the row to benchmarks/results/probes.jsonl."""


def make_task(options: Options, number: int) -> TaskExamples:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(options.examples, options.d_model, generator=generator) * torch.logspace(0, -1, options.d_model)
    x = x / x.norm(dim=1, keepdim=True)
    direction = torch.randn(options.d_model, generator=generator)
    noise = 0.5 * torch.randn(options.examples, generator=generator)
    documents = number * options.examples + torch.arange(options.examples)
    task = Task(
        name=f"task-{number}",
        description="",
        level="token",
        contexts=documents,
        positions=torch.zeros_like(documents),
        labels=x @ direction + noise > 0,
        is_training=documents % 2 == 0,
    )
    return split_examples(task, x, documents)


def measure(options: Options) -> dict[str, Any]:
    config = ProbeConfig()
    W_enc = torch.randn(options.n_latents, options.d_model, generator=torch.Generator().manual_seed(0))
    W_enc = W_enc.to(options.device)
    best_probe(make_task(options, 0), W_enc[:2], config.ridge)  # compiles
    linear_probe(make_task(options, 0), config.linear_ridges, torch.Generator())  # imports
    seconds: dict[str, float] = defaultdict(float)
    of_processor: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began, began_of_processor = time.perf_counter(), time.process_time()
        result = function()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds[name] += time.perf_counter() - began
        of_processor[name] += time.process_time() - began_of_processor
        return result

    scores: list[tuple[Tensor, Tensor]] = []
    not_converged = 0
    for number in range(options.tasks):
        task = make_task(options, number)
        latent = timed("latent", lambda task=task: best_probe(task, W_enc, config.ridge))
        channel = timed("channel", lambda task=task: best_probe(task, None, config.ridge))
        generator = torch.Generator().manual_seed(number)
        linear = timed("linear", lambda task=task, g=generator: linear_probe(task, config.linear_ridges, g))
        timed("product", lambda task=task: products(task, W_enc))
        held_out = (latent.held_out, channel.held_out, linear.held_out, constant_probe(task))
        columns = [*(each.losses for each in held_out), *(each.is_correct.double() for each in held_out)]
        scores.append((torch.stack(columns, dim=1), task.held_out.documents))
        not_converged += latent.not_converged
    generator = torch.Generator().manual_seed(0)
    timed("intervals", lambda: resample_means(scores, samples=config.bootstrap_samples, generator=generator))
    for each in (seconds, of_processor):
        each["whole"] = sum(value for name, value in each.items() if name != "product")
    return {
        **{name: value for name, value in asdict(options).items() if name in SHAPE},
        **{f"{name}_s": round(seconds[name], 2) for name in NAMES},
        **{f"{name}_processor_s": round(of_processor[name], 2) for name in NAMES},
        "fits_per_second": round(options.tasks * options.n_latents / seconds["latent"]),
        "not_converged": not_converged,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if options.device == "cuda" else peak_resident_bytes(),
    }


SHAPE = ("d_model", "n_latents", "tasks", "examples")


def products(task: TaskExamples, W_enc: Tensor) -> None:
    """All pre-activations of the training examples, in the chunks in which they are made."""
    x = task.training.x.to(W_enc)
    for chunk in W_enc.split(max(1, (1 << 19) // len(x))):
        torch.mm(chunk, x.T)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    row = measure(options)
    if options.record:
        row = append_row(RESULTS, row, options.device)
    if options.json:
        print(json.dumps(row))
        return
    title = f"{options.tasks} tasks, {options.examples:,} examples, {options.n_latents:,} latents, d {options.d_model}"
    table = Table("", "s", "processor's s", title=title)
    for name, label in NAMES.items():
        table.add_row(label, f"{row[f'{name}_s']:.2f}", f"{row[f'{name}_processor_s']:.2f}")
    console = Console()
    console.print(table)
    memory = row["peak_memory_bytes"] / 1e9
    console.print(
        f"{row['whole_s']:.1f} s in all, {row['fits_per_second']:,} fits a second, peak memory {memory:.2f} GB"
    )


if __name__ == "__main__":
    main()
