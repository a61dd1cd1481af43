"""Imports go down: a file imports from its own package or from lower floors, never upwards and never in a circle."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "monosem"

FLOORS = (
    {"errors", "files", "randomness", "config", "runlog", "ops", "distributed"},
    {"sae", "subject", "data", "laws"},
    {"training", "evaluation", "interop"},
    {"runs"},
    {"scaling", "viewer"},
    {"recipes"},
    {"cli"},
)


def room_of(module: str) -> str:
    """``monosem.sae.codes`` → ``sae``."""
    return module.split(".")[1]


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def modules() -> dict[str, Path]:
    paths = [path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or not path.name.startswith("__")]
    named = {path: ".".join(("monosem", *path.relative_to(SOURCE).with_suffix("").parts)) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in named.items()}


def imports(path: Path) -> set[str]:
    """Every monosem module a file imports, inside functions too; the version in the package itself is no module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("monosem.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monosem"):
            assert node.level == 0
            whole = f"{node.module}."
            found |= {whole + alias.name if whole + alias.name in MODULES else whole[:-1] for alias in node.names}
    return found - {"monosem"}


MODULES = modules()


def test_every_room_has_its_floor() -> None:
    for module in MODULES:
        floor_of(room_of(module))


def test_imports_never_go_up_nor_across() -> None:
    for module, path in MODULES.items():
        room = room_of(module)
        for other in map(room_of, imports(path)):
            # The ground floor holds single files rather than rooms: they may use each other.
            both_on_the_ground = floor_of(room) == floor_of(other) == 0
            assert other == room or floor_of(other) < floor_of(room) or both_on_the_ground, f"{module} imports {other}"


def test_no_circle_of_imports() -> None:
    graph = {module: imports(path) & set(MODULES) for module, path in MODULES.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {module for module, needs in graph.items() if module not in done and needs - {module} <= done}
        assert free, f"in a circle: {sorted(set(graph) - done)}"
        done |= free
