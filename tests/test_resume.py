"""A run that is killed anywhere goes on with the same command and ends with the same numbers."""

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
from rlhf_lab.study import runner, store
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
