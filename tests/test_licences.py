"""Nothing in the wheel imports a package under the GPL, which would put whoever uses the wheel under it too."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = CONFIG["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
# what stands near chess and is under the GPL, by the name that is imported; PettingZoo's chess imports the first one
GPL = {"chess", "bulletchess", "pyffish"}


def imported(source: str) -> set[str]:
    """The packages that a module imports anywhere, also by ``import_module("name")`` and ``__import__("name")``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.add(node.args[0].value)
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize(
    "source",
    [
        "import chess",
        "import chess.engine as engine",
        "from chess import Board",
        "def f():\n    from chess.pgn import read_game",
        "importlib.import_module('chess.svg')",
        "__import__('chess')",
    ],
)
def test_every_way_to_import_is_seen(source):
    assert imported(source) == {"chess"}


def test_own_modules_are_not_taken_for_others():
    assert imported("from .chess import a\nfrom rlhf_lab_chess import KRK\nimport rlhf_lab.chess") == {
        "rlhf_lab_chess",
        "rlhf_lab",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_of_the_wheel_imports_the_gpl(package):
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    assert {str(path): found for path in modules if (found := imported(path.read_text()) & GPL)} == {}


def test_no_extra_but_the_tests_own_asks_for_the_gpl():
    project = CONFIG["project"]
    asked = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    named = {extra for extra, packages in asked.items() for package in packages if package.startswith(tuple(GPL))}
    assert named == {"test"}


def test_the_import_contract_covers_every_package_of_the_wheel():
    (contract,) = (each for each in CONFIG["tool"]["importlinter"]["contracts"] if each["id"] == "gpl")
    assert set(contract["source_modules"]) == {Path(package).name for package in PACKAGES}
    assert set(contract["forbidden_modules"]) == GPL
