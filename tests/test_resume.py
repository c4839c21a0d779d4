"""A run that is killed anywhere goes on with the same command and ends with the same numbers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rlhf_lab
from rlhf_lab.errors import LabError
from rlhf_lab.study import provenance, runner, store
from rlhf_lab.study.report.page import write_report
from rlhf_lab.study.store import Store

STUDY = {
    "title": "resume",
    "spec": {
        "environment": {"name": "random_walk", "states": 3},
        "policy": {"name": "tabular_softmax", "critic": True},
        "trainer": {"name": "online", "envs": 2, "steps": 8, "epochs": 2, "minibatches": 2},
        "advantage": "gae",
        "objective": "ppo_clip",
        "value": "mse",
        "optimizer": {"name": "adam", "lr": 0.05, "schedule": "linear"},
        "gamma": 0.9,
        "budget": {"iterations": 60},
        "record_every": 3,
    },
    "arms": {"a": {}, "b": {"advantage": "td"}},
    "seeds": 2,
    "scores": {"last": {"metric": "exact_return"}},
}


def curves(results) -> dict[str, np.ndarray]:
    return {f"{arm.name}/{name}": curve for arm in results.arms for name, curve in arm.curves.items()}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, np.ndarray]:
    return curves(rlhf_lab.compare(STUDY))


def assert_same(results, expected) -> None:
    found = curves(results)
    assert found.keys() == expected.keys()
    for name, curve in found.items():
        np.testing.assert_array_equal(curve, expected[name], err_msg=name)


@pytest.mark.parametrize("stop_at", [1, 20, 47])
def test_interrupted_between_iterations_and_resumed(tmp_path, monkeypatch, uninterrupted, stop_at):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    calls = 0

    def interrupt(arm: str, number: int, total: int, fraction: float) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rlhf_lab.compare(STUDY, out=tmp_path, watch=interrupt)
    assert_same(rlhf_lab.compare(STUDY, out=tmp_path), uninterrupted)


def test_killed_and_resumed(tmp_path, uninterrupted):
    code = (
        "import json, sys, rlhf_lab; from rlhf_lab.study import runner; runner.CHECKPOINT_SECONDS = 0.0\n"
        "rlhf_lab.compare(json.loads(sys.argv[1]), out=sys.argv[2])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(STUDY), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(Path(tmp_path).glob("arms/*.checkpoint.safetensors")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert_same(rlhf_lab.compare(STUDY, out=tmp_path), uninterrupted)


def test_workers_find_the_same_numbers(tmp_path, uninterrupted):
    reports = []
    results = rlhf_lab.compare(STUDY, out=tmp_path, workers=2, watch=lambda *report: reports.append(report))
    assert_same(results, uninterrupted)
    assert reports[-1][1:] == (2, 2, 1.0)


def test_what_a_worker_raises_reaches_the_caller(tmp_path):
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from rlhf_lab import hookimpl\n"
        "from rlhf_lab.components import AdvantageEstimator\n"
        "class Bad(AdvantageEstimator):\n"
        "    'Fails.'\n"
        "    name = 'bad'\n"
        "    def __call__(self, batch): raise RuntimeError('no luck')\n"
        "@hookimpl\n"
        "def rlhf_lab_components(): return [Bad]\n",
        encoding="utf-8",
    )
    study = STUDY | {"arms": {"a": {"advantage": "bad"}, "b": {"advantage": "bad"}}}
    with pytest.raises(LabError, match=r"advantage 'bad' raised RuntimeError: no luck \(bad.py:6\)"):
        rlhf_lab.compare(study, plugins=[str(plugin)], out=tmp_path / "out", workers=2)


def test_workers_without_a_run_directory_are_refused():
    with pytest.raises(LabError, match="need a run directory"):
        rlhf_lab.compare(STUDY, workers=2)


def test_a_finished_study_is_read_not_run(tmp_path, uninterrupted):
    rlhf_lab.compare(STUDY, out=tmp_path)
    touched = {path: path.stat().st_mtime_ns for path in tmp_path.glob("arms/*")}
    assert_same(rlhf_lab.compare(STUDY, out=tmp_path), uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("arms/*")} == touched


def test_a_resumed_study_writes_the_same_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)

    def interrupt(arm: str, number: int, total: int, fraction: float) -> None:
        if fraction > 0.7:  # the first arm is finished, the second has a checkpoint
            raise KeyboardInterrupt

    rlhf_lab.compare(STUDY, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        rlhf_lab.compare(STUDY, out=tmp_path / "resumed", watch=interrupt)
    rlhf_lab.compare(STUDY, out=tmp_path / "resumed")
    for name in ("scores.csv", "curves.csv"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_keeps_what_was_finished(tmp_path, monkeypatch):
    save = store.save

    def full(tensors, metadata=None):
        if '"name": "b"' in metadata["json"]:
            raise OSError(28, "No space left on device")
        return save(tensors, metadata=metadata)

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(LabError, match=r"No space left on device.*What was finished before is kept"):
        rlhf_lab.compare(STUDY, out=tmp_path)
    assert Store(tmp_path).result("a") is not None
    assert [path.name for path in tmp_path.glob("arms/*")] == ["a.safetensors"]


PLUGIN = """
from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages
class Mine(AdvantageEstimator):
    "The reward alone."
    name = "mine"
    def __call__(self, batch): return Advantages(FACTOR * batch.rewards, batch.rewards)
@hookimpl
def rlhf_lab_components(): return [Mine]
"""
MINE = STUDY | {"arms": {"a": {}, "b": {"advantage": "mine"}}}


def test_an_edited_plugin_is_not_answered_with_old_numbers(tmp_path):
    plugin, out = tmp_path / "my.py", tmp_path / "out"
    plugin.write_text(PLUGIN.replace("FACTOR", "1.0"), encoding="utf-8")
    first = rlhf_lab.compare(MINE, plugins=[str(plugin)], out=out)
    assert_same(rlhf_lab.compare(MINE, plugins=[str(plugin)], out=out), curves(first))
    plugin.write_text(PLUGIN.replace("FACTOR", "2.0"), encoding="utf-8")
    with pytest.raises(LabError, match=r"my.py' in another state .*Choose another directory with --out, or remove"):
        rlhf_lab.compare(MINE, plugins=[str(plugin)], out=out)
    rlhf_lab.compare(MINE, plugins=[str(plugin)], out=tmp_path / "another")


def test_provenance_names_the_plugins_that_the_study_uses(tmp_path):
    plugin = tmp_path / "my.py"
    plugin.write_text(PLUGIN.replace("FACTOR", "1.0"), encoding="utf-8")
    unused = rlhf_lab.compare(STUDY, plugins=[str(plugin)]).provenance["plugins"]
    used = rlhf_lab.compare(MINE, plugins=[str(plugin)]).provenance["plugins"]
    digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert [entry for entry in used if entry not in unused] == [
        {"name": str(plugin), "distribution": "local", "sha256": digest}
    ]
    assert {entry["name"] for entry in unused} >= {"rlhf-lab:advantages", "rlhf-lab:mdp"}
    assert {entry["distribution"] for entry in unused} == {"rlhf-lab"}


def test_going_on_with_another_torch_keeps_both_in_provenance(tmp_path, monkeypatch):
    def stop(arm: str, number: int, total: int, fraction: float) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rlhf_lab.compare(STUDY, out=tmp_path, watch=stop)
    version = provenance.metadata.version
    monkeypatch.setattr(provenance.metadata, "version", lambda name: "99" if name == "torch" else version(name))
    results = rlhf_lab.compare(STUDY, out=tmp_path)
    written = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))
    assert [about["versions"]["torch"] for about in (written, *written["resumed"])] == [version("torch"), "99"]
    assert results.provenance == written


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"figures": [{"kind": "curve", "y": "exact_retrun"}]}, {"figures": [{"kind": "curve", "y": "exact_return"}]}),
        (
            {"conclusions": [{"kind": "order", "statement": "s", "better": "a", "worse": "b", "quantity": "lats"}]},
            {"conclusions": [{"kind": "order", "statement": "s", "better": "a", "worse": "b", "quantity": "last"}]},
        ),
        ({"scores": {"last": {"metric": "exact_retrun"}}}, {}),
    ],
)
def test_a_bad_name_is_refused_after_the_first_arm_and_mended_in_place(tmp_path, uninterrupted, bad, good):
    with pytest.raises(LabError, match="Did you mean"):
        rlhf_lab.compare(STUDY | bad, out=tmp_path)
    assert [path.name for path in tmp_path.glob("arms/*")] == ["a.safetensors"]
    touched = (tmp_path / "arms" / "a.safetensors").stat().st_mtime_ns
    assert_same(rlhf_lab.compare(STUDY | good, out=tmp_path), uninterrupted)
    assert (tmp_path / "arms" / "a.safetensors").stat().st_mtime_ns == touched


def test_an_interrupted_study_has_a_report(tmp_path):
    conclusion = {"kind": "order", "statement": "s", "better": "a", "worse": "b"}

    def stop(arm: str, number: int, total: int, fraction: float) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rlhf_lab.compare(STUDY | {"conclusions": [conclusion]}, out=tmp_path, watch=stop)
    page = write_report(Store(tmp_path).results(), tmp_path).read_text(encoding="utf-8")
    assert "1 of 2 arms are not finished" in page and "arm &#39;b&#39; is not finished" in page


def test_provenance_names_the_plugin_of_a_component_inside_another(tmp_path):
    plugin = tmp_path / "my.py"
    plugin.write_text(
        "from rlhf_lab import hookimpl\n"
        "from rlhf_lab.components import Controller\n"
        "class Still(Controller):\n"
        "    'Leaves the coefficient as it is.'\n"
        "    name = 'still'\n"
        "    def __call__(self, coefficient, observed): return coefficient\n"
        "@hookimpl\n"
        "def rlhf_lab_components(): return [Still]\n",
        encoding="utf-8",
    )
    spec = STUDY["spec"] | {"objective": {"name": "ppo_kl", "controller": "still"}, "budget": {"iterations": 1}}
    found = rlhf_lab.compare(STUDY | {"spec": spec}, plugins=[str(plugin)]).provenance["plugins"]
    assert str(plugin) in [entry["name"] for entry in found]
