"""Rows of measurements, with what a reader needs to compare them."""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from monosem.files import append_line


def show_row(row: dict[str, Any], record: Path | None) -> None:
    """Print a row measured on the CPU as JSON, and add it to a file if there is one to add it to."""
    Console().print(json.dumps(row if record is None else append_row(record, row, "cpu"), indent=2), highlight=False)


def append_row(path: Path, row: dict[str, Any], device: str) -> dict[str, Any]:
    """Add date, device and versions, append the row, and return it as written."""
    row = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **row,
    }
    append_line(path, json.dumps(row))
    return row


def cpu_name() -> str:
    """The processor, and the widest matrix instructions it has."""
    capabilities = torch.cpu.get_capabilities()
    wide = next((name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if capabilities.get(name)), "")
    return f"{capabilities.get('cpu_name', platform.processor())}, {wide}"
