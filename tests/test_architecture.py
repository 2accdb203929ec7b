"""The rules of the house that a reader of one file cannot see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "forecast": set(),
    "train": {"forecast"},
    "connect": {"forecast"},
    "actors": {"train", "connect", "forecast"},
    "serve_app": {"actors", "forecast"},
    "cli": {"serve_app", "actors", "train", "connect", "forecast"},
}
"""What of ours each part may import beside itself; an import inside a function counts too."""

WITHOUT_RAY = ("forecast", "train", "connect")
RAY_TRAIN_FUNCTION = Path("train/distributed.py")
UNSAFE_FORMATS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save"}
MOST_LINES = 320


def sources() -> list[Path]:
    """Every Python file of the product, relative to the root."""
    files = [Path(f"{name}.py") for name in MAY_IMPORT if (ROOT / f"{name}.py").exists()]
    for folder in (*MAY_IMPORT, "bench", "examples"):
        files += sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
    return files


def part_of(path: Path) -> str:
    """The layer a file belongs to: its package, or the module itself."""
    return path.parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in the file it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_every_part_imports_only_what_lies_below_it() -> None:
    wrong = [
        f"{path} imports {name}"
        for path in sources()
        if part_of(path) in MAY_IMPORT
        for name in imported(tree_of(path))
        if (top := name.split(".")[0]) in MAY_IMPORT
        if top != part_of(path) and top not in MAY_IMPORT[part_of(path)]
    ]
    assert not wrong


def test_forecast_train_and_connect_do_without_ray() -> None:
    wrong = [
        f"{path} imports {name}"
        for path in sources()
        if part_of(path) in WITHOUT_RAY and path != RAY_TRAIN_FUNCTION
        for name in imported(tree_of(path))
        if name.split(".")[0] == "ray"
    ]
    assert not wrong


def test_importing_the_serving_code_loads_no_training_code() -> None:
    script = (
        "import sys, serve_app\n"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('train', 'connect')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_nothing_is_stored_in_a_format_that_can_run_code() -> None:
    wrong = []
    for path in sources():
        tree = tree_of(path)
        names = {name.split(".")[0] for name in imported(tree)}
        wrong += [f"{path} imports {name}" for name in names & UNSAFE_FORMATS]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_CALLS:
                wrong.append(f"{path}:{node.lineno} uses {ast.unparse(node)}")
            if not isinstance(node, ast.keyword) or node.arg != "allow_pickle":
                continue
            if ast.unparse(node.value) != "False":
                wrong.append(f"{path}:{node.value.lineno} allows pickle")
    assert not wrong


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_file_is_short_enough_to_read_at_one_sitting(path: Path) -> None:
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES


def test_nothing_is_left_open_in_the_code() -> None:
    # Put together here, so that a search for the words finds only what is left open.
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")))
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    ]
    assert not wrong


def test_every_package_is_pinned_to_a_version_any_index_can_serve() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    assert "+" not in text

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {pin.split("==")[0].lower() for pin in pins}
    assert {re.split(r"[\[<>=]", name)[0] for name in needed} <= pinned


def test_the_map_names_every_file_and_no_other() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| \[`([^`]+)`\]", text, flags=re.MULTILINE))
    assert named == {str(path) for path in sources() if path.name != "__init__.py"}
