"""Whether verification or the tests notice one changed file: what happens in the child of one mutant."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import time
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from rlhf_lab.components import Component
from rlhf_lab.conformance.guard import seeded
from rlhf_lab.conformance.verification import Verification, properties_for

__all__ = ["PACKAGES", "Mutant", "Snapshot", "judge"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlhf_lab_advantages", "rlhf_lab_objectives")
SCANS = ["test_advantages.py", "test_advantages_empty.py"]
GROUPS = ["test_advantages_groups.py", "test_advantages_empty.py"]
NORMALIZERS = ["test_normalizers.py", "test_advantages_empty.py"]
TESTS = {
    **dict.fromkeys(["backends", "baselines", "critic", "off_policy", "returns", "row_scans", "tensor_scans"], SCANS),
    "groups": GROUPS,
    "normalizers": NORMALIZERS,
    "statistics": ["test_advantages_groups.py", *NORMALIZERS],
    "layout": ["test_advantages_groups.py", "test_normalizers.py", *SCANS],
    "aggregation": ["test_aggregations.py"],
    "controller": ["test_controllers.py"],
    "kl": ["test_kl.py"],
    "policy_gradient": ["test_objectives.py"],
    "ppo": ["test_objectives.py"],
    "value": ["test_value_losses.py"],
}
TELLING = ("answers-every-batch", "implementations-agree", "runs-apart")  # judged first, with the definition of record
PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib")


@dataclass
class Mutant:
    """One mutation of one file, and what became of it."""

    module: str  # rlhf_lab_advantages.groups
    line: int
    function: str
    change: str
    source: str = field(repr=False)
    outcome: str = ""  # import, verify, tests, survived; a stage in which it timed out or died counts as that stage
    detail: str = ""
    seconds: float = 0.0  # of processor time
    reason: str = ""

    @property
    def place(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}"


class Snapshot:
    """The sources as they were at the start, one of them changed: what children import."""

    def __init__(self) -> None:
        self.paths = {
            f"{p}.{path.stem}": path for p in PACKAGES for path in sorted((ROOT / "plugins" / p).glob("*.py"))
        }
        self.sources = {module: path.read_text() for module, path in self.paths.items()}

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        module = f"{name}.__init__" if name in PACKAGES else name
        if module not in self.sources:
            return None
        loader = _Loader(name, str(self.paths[module]), self.sources[module])
        return importlib.util.spec_from_file_location(name, self.paths[module], loader=loader)

    def dependants(self, module: str) -> set[str]:
        """Return the modules of the same package that import a module, through others too, and itself."""
        found = {module}
        while True:
            more = {other for other, text in self.sources.items() if found & _imported(text)} - found
            if not more:
                return found
            found |= more


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


def _imported(source: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return {node.module or "" for node in nodes} | {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}


class _Unshrunk(Verification):
    """A verification that reports the first case that fails: nobody reads the smallest one here."""

    def _shrunk(self, law: Any, case: Any) -> Any:
        return case


def judge(mutant: Mutant, snapshot: Snapshot, examples: int, tell: Connection) -> None:
    """Tell the stage whenever a new one begins, and in the end what was noticed; runs in a child."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    sys.meta_path.insert(0, snapshot)
    snapshot.sources[mutant.module] = mutant.source
    package = mutant.module.partition(".")[0]
    tell.send(("import", "", 0.0))
    try:
        classes = importlib.import_module(package).rlhf_lab_components()
    except BaseException as error:
        return _end(tell, "import", f"{type(error).__name__}: {error}")
    concerned = snapshot.dependants(mutant.module)
    tell.send(("verify", "", 0.0))
    if failed := _verify([cls for cls in classes if cls.__module__ in concerned], examples):
        return _end(tell, "verify", failed)
    tell.send(("tests", "", 0.0))
    if failed := _test(TESTS[mutant.module.rpartition(".")[2]]):
        return _end(tell, "tests", failed)
    _end(tell, "survived", "")


def _end(tell: Connection, outcome: str, detail: str) -> None:
    tell.send((outcome, detail.partition("\n")[0], time.process_time()))


def _verify(classes: list[type[Component]], examples: int) -> str:
    """Return which component failed which law, the most telling laws first; nothing where none did."""
    try:
        judges = [_Unshrunk(cls, examples=examples, time_limit=3.0) for cls in classes]
        laws = [(each, law) for each in judges for law in properties_for(each.component)]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    laws.sort(key=lambda pair: not (pair[1].id.startswith("is-") or pair[1].id in TELLING))
    for each, law in laws:
        with each.guard.installed(), seeded(each.seed):
            try:
                verdict = each.judge(law)
            except Exception as error:
                return f"{each.default.name}: {type(error).__name__}: {error}"
        if verdict.status == "failed":
            return f"{each.default.name}: {law.id}: {verdict.message}"
    return ""


class _FirstFailure:
    nodeid = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.nodeid = self.nodeid or report.nodeid


def _test(files: list[str]) -> str:
    first = _FirstFailure()
    code = pytest.main([*PYTEST, f"--rootdir={ROOT}", *(str(ROOT / "tests" / name) for name in files)], [first])
    return "" if code == 0 else first.nodeid or f"pytest ended with {int(code)}"
