"""Time the viewer's index of a run, all of it, and measure the most memory it takes.

    python -m benchmarks.viewer_index --run runs/quickstart
    OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 python -m benchmarks.viewer_index --run build/evaluation/topk/topk-16384-32

The run's index is made again. Loading the subject is in the time, and reading the text where it is in the token cache
already; compiling the kernels is, where they are not on the disk. Seconds need an idle machine, CPU seconds say more on
a busy one, and how fast a core multiplies before and after says what the machine was worth then. The peak counts pages
of the codes' files that lie in memory.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from benchmarks.record import show_row
from monosem.viewer.index import IndexConfig, build_index
from monosem.viewer.schema import open_index

RESULTS = Path("benchmarks/results/viewer_index.jsonl")


@dataclass(frozen=True)
class Options:
    """What to time."""

    run: Path
    """A run directory."""
    tokens: int = IndexConfig.tokens
    """Tokens to index."""
    split: Literal["training", "held_out"] = "training"
    """Of which text."""
    record: bool = True
    """Append the row to benchmarks/results/viewer_index.jsonl."""


def measure(options: Options, console: Console) -> dict[str, Any]:
    config = IndexConfig(tokens=options.tokens, split=options.split)
    speeds = [core_speed()]
    began, cpu_began = time.perf_counter(), time.process_time()
    path = build_index(options.run, config, again=True, console=console)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    speeds.append(core_speed())
    began = time.perf_counter()
    build_index(options.run, config, console=console)
    kept_seconds = time.perf_counter() - began
    connection = open_index(path)
    meta = {row["key"]: json.loads(row["value"]) for row in connection.execute("SELECT * FROM meta")}
    (fired,) = connection.execute("SELECT sum(fired) FROM latents").fetchone()
    connection.close()
    return {
        **{name: value for name, value in asdict(options).items() if name not in ("run", "record")},
        **{name: meta["run"][name] for name in ("subject", "architecture", "n_latents", "k", "d_model")},
        "indexed_tokens": meta["index"]["tokens"],
        "activations_per_token": round(fired / meta["index"]["tokens"], 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "core_gflops": speeds,
        "seconds_when_kept": round(kept_seconds, 2),
        "peak_memory_mb": round(_peak_bytes() / 1e6),
        "database_mb": round(path.stat().st_size / 1e6, 1),
    }


def core_speed() -> int:
    """Float32 operations a second of one thread's matrix product, in billions: the median of a second or two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, times = torch.randn(1024, 1024), []
    for _ in range(50):
        began = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return round(2 * 1024**3 / statistics.median(times) / 1e9)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    options, console = tyro.cli(Options, description=__doc__), Console(stderr=True)
    row = measure(options, console)
    show_row(row, RESULTS if options.record else None)


if __name__ == "__main__":
    main()
