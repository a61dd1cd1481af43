"""A sweep's results: a row for every finished run, together in one Parquet file.

A run leaves its row in its own directory. Whoever finishes a run gathers all rows that are there into the table, and
looks again afterwards: so the last to write has seen every row, however many processes and machines share the
directory, and none needs a lock. Rows whose directories are gone stay in the table.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import monosem
from monosem.config import to_flat_dict
from monosem.errors import UserError
from monosem.evaluation.record import load_evaluation
from monosem.files import write_atomically
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.directory import EVALUATION, METRICS
from monosem.sae.autoencoder import Autoencoder
from monosem.scaling.config import RUNS, asked_l0
from monosem.subject.model import SubjectModel

Row = dict[str, Any]

TABLE = "results.parquet"
ROW = "row.json"
# Of the evaluation, with the bounds of their intervals.
METRIC_COLUMNS = (
    "normalized_mse",
    "l0",
    "dead_share",
    "cross_entropy",
    "cross_entropy_increase",
    "kl_reconstruction",
    "loss_recovered_mean_ablation",
)
# Settings that change nothing that a row tells.
_INDIFFERENT = ("out", "activations", "log.", "subject.subject_batch", "training.checkpoint", "training.keep")


def row_of(run: RunConfig, sae: Autoencoder, subject: SubjectModel, flops_per_token: float) -> Row:
    """What a finished run's directory tells, flat."""
    assert sae.provenance is not None
    metrics = load_evaluation(run.out / EVALUATION).metrics
    measured: Row = {}
    for name in METRIC_COLUMNS:
        measured |= {name: metrics[name].value, f"{name}_low": metrics[name].low, f"{name}_high": metrics[name].high}
    curve = [each for each in read_json_lines(run.out / METRICS) if "held_out_normalized_mse" in each]
    return {
        "name": run.out.name,
        "subject": subject.name,
        "subject_revision": subject.revision,
        "subject_parameters": subject.n_parameters,
        "hookpoint": str(sae.provenance.site),
        "architecture": run.autoencoder.architecture,
        "d_model": sae.d_model,
        "n_latents": sae.n_latents,
        "k": float(asked_l0(run)) if not asked_l0(run).startswith("x") else None,
        "tokens": run.training.steps * run.training.batch_size,
        "batch_size": run.training.batch_size,
        "learning_rate": run.training.resolved_learning_rate(sae.n_latents, sae.rate_multiple),
        "seed": run.training.seed,
        "flops_per_token": flops_per_token,
        **measured,
        "curve_tokens": [int(each["tokens"]) for each in curve],
        "curve_normalized_mse": [float(each["held_out_normalized_mse"]) for each in curve],
        "settings": json.dumps(telling_settings(run), sort_keys=True),
        "device": str(subject.device),
        "monosem": monosem.__version__,
        "torch": torch.__version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def telling_settings(run: RunConfig) -> dict[str, Any]:
    """All settings of a run that its row depends on, by dotted names."""
    return {name: value for name, value in to_flat_dict(run).items() if not name.startswith(_INDIFFERENT)}


def require_same_settings(rows: Sequence[Row], runs: Sequence[RunConfig]) -> None:
    """Finished runs must be those that are asked for. A setting that is newer than a row must be at its default.

    Raises:
        UserError: names a run, the setting, and both values.
    """
    found = {row["name"]: json.loads(row["settings"]) for row in rows}
    for run in runs:
        before, now = found.get(run.out.name), telling_settings(run)
        if before is None:
            continue
        defaults = to_flat_dict(RunConfig(out=run.out))
        for name in sorted(before.keys() | now.keys()):
            was = before.get(name, defaults.get(name))
            if was != now.get(name):
                raise UserError(
                    f"{run.out.name} was finished with {name} = {was!r}, and it is {now.get(name)!r} now; "
                    "choose another out for the new sweep, or take the change back."
                )


def write_row(row: Row, directory: Path) -> None:
    """Leave a run's row in its directory."""
    write_atomically(directory / ROW, (json.dumps(row) + "\n").encode())


def gather_rows(out: Path) -> list[Row]:
    """Write the table of all rows that the table and the runs hold, and return them, by name."""
    while True:
        places = _places(out)
        rows = {row["name"]: row for row in read_table(out)} if (out / TABLE).exists() else {}
        rows |= {row["name"]: row for row in map(_read_row, places)}
        ordered = [rows[name] for name in sorted(rows)]
        if ordered:
            _write_table(ordered, out / TABLE)
        if _places(out) == places:
            return ordered


def read_table(out: Path) -> list[Row]:
    """The rows of a sweep's table, in the directory that it lies in, or of the file itself.

    Raises:
        UserError: it is missing or damaged, or is no such table.
    """
    import pyarrow
    import pyarrow.lib
    import pyarrow.parquet

    path = out if out.suffix == ".parquet" else out / TABLE
    if not path.exists():
        raise UserError(f"{path} does not exist; write it with: monosem sweep --config …")
    try:
        # One read of the whole file: pyarrow opens a path twice, and another process may replace it in between.
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(path.read_bytes())).to_pylist()
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); restore it, or run the sweep again.") from error
    lacking = {"name", "settings", "n_latents", "normalized_mse"} - (rows[0].keys() if rows else set[str]())
    if lacking:
        raise UserError(f"{path} is not a sweep's table: it has no column {', '.join(sorted(lacking))}.")
    return rows


def _write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import io

    import pyarrow
    import pyarrow.parquet

    columns = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _places(out: Path) -> list[Path]:
    return sorted((out / RUNS).glob(f"*/{ROW}"))


def _read_row(path: Path) -> Row:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and the sweep writes it again.") from error
