"""What a stranger's machine sees: the import is quick, the wheel is whole."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def clean_environment(**extra: str) -> dict[str, str]:
    """This environment without what points Python at the clone."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | extra


def import_seconds(statement: str) -> dict[str, float]:
    """Cumulative seconds of every import that ``-X importtime`` lists for a statement."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    listing = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stderr
    rows = [line.removeprefix("import time:").split("|") for line in listing.splitlines() if "|" in line]
    return {name.strip(): int(micros) / 1e6 for _, micros, name in rows if micros.strip().isdigit()}


def test_importing_adds_less_than_three_tenths_of_a_second_to_torch() -> None:
    assert min(import_seconds("import torch, monosem")["monosem"] for _ in range(3)) < 0.3


def test_using_the_autoencoder_does_not_import_transformers() -> None:
    statement = "import sys, monosem; monosem.load, monosem.AutoencoderConfig; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "monosem.sae.storage" in loaded
    assert not {"transformers", "datasets", "matplotlib", "tyro", "pyarrow"} & loaded


def test_importing_has_no_effects() -> None:
    statement = "import torch; state = torch.random.get_rng_state(); import monosem.runs.train, monosem.cli.main; "
    statement += "assert torch.equal(state, torch.random.get_rng_state()); assert not torch.cuda.is_initialized()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", statement], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(directory), str(ROOT))
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (found,) = directory.glob("monosem-*.whl")
    return found


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected and len({Path(name).suffix for name in packed}) > 5
    assert wheel.stat().st_size < 16e6


@pytest.mark.slow
def test_the_wheel_runs_a_small_quickstart_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    def run(*command: str | Path, **environment: str) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=clean_environment(**environment),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "empty")
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    assert "site-packages" in run(python, "-c", "import monosem; print(monosem.__file__)")
    command = (
        tmp_path / "empty" / "bin" / "monosem",
        "quickstart",
        "--tokens",
        "40_000",
        "--eval-tokens",
        "8_000",
        "--out",
        "small",
    )
    printed = run(*command, MONOSEM_CACHE=str(tmp_path / "cache"))
    assert "Normalised MSE" in printed
    assert printed.count("Latent ") == 5
    assert {path.name for path in (tmp_path / "small").iterdir()} >= {"config.toml", "sae", "eval.json", "figures"}
