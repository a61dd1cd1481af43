"""A sweep on all of a machine: a process for each part of a share, every one on a GPU or some cores of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from monosem.errors import UserError
from monosem.runlog import ProgressLine, read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import METRICS
from monosem.runs.interruption import Interruption
from monosem.runs.train import Interrupted
from monosem.scaling.config import SweepConfig
from monosem.scaling.results import ROW, Row, gather_rows
from monosem.scaling.shares import Share, take_share, total_work
from monosem.scaling.sweep import HOW_TO_GO_ON, finished_names

if TYPE_CHECKING:
    from rich.console import Console

LOGS = "logs"
_POLL_SECONDS = 1.0
_LINES_SHOWN = 12


class Worker(NamedTuple):
    """A process, the share it trains and where what it says goes."""

    process: subprocess.Popen[bytes]
    share: Share
    log: Path


def sweep_in_processes(
    file: Path, config: SweepConfig, share: Share, count: int, *, console: "Console | None" = None
) -> list[Row]:
    """As ``sweep``, by so many processes at the same time; each writes what it says into ``out/logs``.

    Args:
        file: that ``config`` was read from; the processes read it again.

    Raises:
        UserError: a process failed; the message ends with what it said last. The others were asked to stop.
        Interrupted: a signal asked to stop; every process left a checkpoint.
    """
    console = console or default_console()
    finished = finished_names(config)
    runs = [run for group in take_share(config.runs(), share, config.together) for run in group]
    runs = [run for run in runs if run.out.name not in finished]
    (config.out / LOGS).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        workers = [_start(file, part, config, number, count) for number, part in enumerate(share.divided(count))]
        line = stack.enter_context(ProgressLine("Sweep", total_work(runs), console, unit="of work"))
        try:
            while any(worker.process.poll() is None for worker in workers):
                time.sleep(_POLL_SECONDS)
                _show(runs, line)
                if interruption.received or any(worker.process.poll() for worker in workers):
                    break
        finally:
            _stop(workers)
    if interruption.received:
        raise Interrupted(interruption.received, HOW_TO_GO_ON)
    for worker in workers:
        if worker.process.returncode != 0:
            said = "\n".join(worker.log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:])
            raise UserError(f"The process of part {worker.share} failed; {worker.log} ends with:\n{said}")
    return gather_rows(config.out)


def _start(file: Path, share: Share, config: SweepConfig, number: int, count: int) -> Worker:
    log = config.out / LOGS / f"part-{str(share).replace('/', '-of-').replace(':', '-')}.log"
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    if config.subject.device in ("auto", "cuda") and (devices := torch.cuda.device_count()):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(devices)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = seen[number % devices]
    command = [sys.executable, "-m", "monosem", "sweep", "--config", str(file), "--part", str(share)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # signals come from us alone, and once
        )
    return Worker(process, share, log)


def _stop(workers: Sequence[Worker]) -> None:
    """Ask those that still run to stop, and wait for their checkpoints."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    for worker in workers:
        worker.process.wait()


def _show(runs: Sequence[RunConfig], line: ProgressLine) -> None:
    shares = [trained_share(run) for run in runs]
    done = sum(share * total_work([run]) for share, run in zip(shares, runs, strict=True))
    finished = sum((run.out / ROW).exists() for run in runs)
    going_on = {
        "in training": sum(0 < share < 1 for share in shares),
        "in evaluation": sum(share == 1 for share in shares) - finished,
    }
    # All is not done before all are evaluated.
    line.update(
        min(int(done), total_work(runs) - (finished < len(runs))),
        [f"{finished} of {len(runs)} finished", *(f"{count} {where}" for where, count in going_on.items() if count)],
    )


def trained_share(run: RunConfig) -> float:
    """How much of its tokens a run has been trained on, by what it logged last."""
    if (run.out / ROW).exists():
        return 1.0
    path = run.out / METRICS
    records = read_json_lines(path) if path.exists() else []
    return records[-1]["tokens"] / (run.training.steps * run.training.batch_size) if records else 0.0
