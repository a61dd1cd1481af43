"""Where a run's numbers go: a file of JSON lines always; TensorBoard and Weights & Biases if asked; a live line."""

import importlib.util
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from monosem.errors import UserError
from monosem.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

Record = Mapping[str, float | int]


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is recorded, how often and where."""

    log_every: int = 20_000
    """Tokens between records in metrics.jsonl (each holds the means since the last)."""
    held_out_points: int = 0
    """How often the run records the normalised MSE of its averaged weights on held-out text, too: at token counts in
    equal ratios, up to the run's end. It is measured with the first record from there on."""
    held_out_tokens: int = 16_384
    """Held-out tokens for these."""
    tensorboard: bool = False
    """Also write TensorBoard events, into the run's directory."""
    wandb_project: str | None = None
    """Also log to this Weights & Biases project."""

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise UserError(f"log_every={self.log_every} is below 1; give a positive number of tokens.")
        if self.held_out_points < 0:
            raise UserError(f"held_out_points={self.held_out_points} is negative; give 0 (none) or more.")
        if self.held_out_tokens < 1:
            raise UserError(f"held_out_tokens={self.held_out_tokens} is below 1; give a positive number of tokens.")


@runtime_checkable
class Sink(Protocol):
    """Somewhere that records go."""

    def log(self, record: Record) -> None:
        """Take one record; ``record["tokens"]`` is its place on the x axis."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class JsonLines:
    """One JSON object a line, on the disk as soon as it is written."""

    def __init__(self, path: Path, *, after_tokens: int = 0) -> None:
        """Records beyond ``after_tokens`` are dropped: a resumed run writes them again."""
        kept = [record for record in read_json_lines(path) if record["tokens"] <= after_tokens] if path.exists() else []
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: Record) -> None:
        self._file.write(json.dumps(dict(record)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of them, as a run's metrics. A last line that an interruption cut short is passed over."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def require_packages(config: LogConfig) -> None:
    """The packages that the configured sinks need, to be asked for before a run begins.

    Raises:
        UserError: one is not installed.
    """
    needed = {"tensorboard": config.tensorboard, "wandb": config.wandb_project is not None}
    for package, is_needed in needed.items():
        if is_needed and importlib.util.find_spec(package) is None:
            raise UserError(f"The log needs the package {package}: pip install 'monosem[{package}]'.")


class TensorBoard:
    """TensorBoard events, one scalar a key."""

    def __init__(self, directory: Path, *, after_tokens: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=after_tokens + 1 if after_tokens else None)

    def log(self, record: Record) -> None:
        for name, value in record.items():
            if name != "tokens":
                self._writer.add_scalar(name, value, int(record["tokens"]))

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run in a Weights & Biases project; a resumed run goes on in the same one."""

    def __init__(self, project: str, directory: Path, config: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] (an optional extra)

        identity = directory / "wandb_id.txt"
        if not identity.exists():
            write_atomically(identity, wandb.util.generate_id().encode())
        self._run = wandb.init(
            project=project, dir=str(directory), config=dict(config), id=identity.read_text(), resume="allow"
        )

    def log(self, record: Record) -> None:
        self._run.log(dict(record), step=int(record["tokens"]))

    def close(self) -> None:
        self._run.finish()


def open_sinks(
    config: LogConfig, directory: Path, run_config: Mapping[str, Any], *, after_tokens: int = 0
) -> list[Sink]:
    """The sinks of a run; those beyond the JSON lines as the configuration asks.

    Raises:
        UserError: a package that one needs is not installed.
    """
    require_packages(config)
    sinks: list[Sink] = [JsonLines(directory / "metrics.jsonl", after_tokens=after_tokens)]
    if config.tensorboard:
        sinks.append(TensorBoard(directory / "tensorboard", after_tokens=after_tokens))
    if config.wandb_project:
        sinks.append(WeightsAndBiases(config.wandb_project, directory, run_config))
    return sinks


class ProgressLine:
    """A live line on a terminal; elsewhere a plain line every ten seconds, and one at the end.

    Shows what is done of the total, the speed over the last minute, the time left and a few words of news; nothing
    before the first update. Used as a context manager.
    """

    def __init__(
        self,
        what: str,
        total: int,
        console: "Console",
        *,
        done: int = 0,
        unit: str = "tokens",
        transient: bool = False,
    ) -> None:
        """
        Args:
            total: 0 where it is not known.
            transient: the line leaves the terminal when all is done.
        """
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.table import Column

        self._what, self._total, self._unit, self._console = what, total, unit, console
        self._started, self._printed = time.monotonic(), time.monotonic()
        self._recent: list[tuple[float, int]] = [(self._started, done)]
        has_room = console.width >= 110
        if console.is_terminal and not has_room:
            self._unit = ""
        one_line = Column(no_wrap=True)
        columns: list[ProgressColumn] = [TextColumn("[bold]{task.description}", table_column=one_line)]
        columns += [BarColumn(bar_width=20)] if has_room else []
        columns += [TextColumn("{task.fields[line]}", markup=False, table_column=one_line)]
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)
        self._task = self._progress.add_task(what, total=total or None, completed=done, line="")

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, news: Sequence[str] = (), *, total: int | None = None) -> None:
        """Show that ``done`` of the total is done; a total that was not known before may be given now."""
        self._total = total or self._total
        now = time.monotonic()
        self._recent = [(at, count) for at, count in self._recent if now - at < 60][-600:] or self._recent[-1:]
        self._recent.append((now, done))
        line = "  ".join([*self._amounts(now, done), *news])
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(self._task, completed=done, total=self._total or None, line=line)
        if not self._console.is_terminal and (now - self._printed >= 10 or 0 < self._total <= done):
            self._printed = now
            self._console.print(f"{self._what}: {line}", markup=False, highlight=False, soft_wrap=True)

    def _amounts(self, now: float, done: int) -> list[str]:
        at, count = self._recent[0]
        rate = (done - count) / (now - at) if now > at else 0.0
        if not self._total:
            return [f"{short(done)} {self._unit}".rstrip()]
        amounts = [f"{short(done)}/{short(self._total)} {self._unit}".rstrip()]
        if rate > 0:
            amounts.append(f"{short(rate)}/s")
        if rate > 0 and done < self._total:
            amounts.append(f"{clock((self._total - done) / rate)} left")
        elif done >= self._total:
            amounts.append(f"in {clock(now - self._started)}")
        return amounts


def clock(seconds: float | int) -> str:
    """Minutes and seconds, with the hours where there are any: 3:05, 2:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(number: float | int) -> str:
    """A count in at most five characters: 950, 12.3k, 2.00M, 16.0G."""
    rounded = float(f"{number:.3g}")
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            scaled = rounded / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{suffix}"
    return f"{rounded:.0f}"
