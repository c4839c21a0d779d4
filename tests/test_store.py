"""The run directory: written whole or not at all, of one study, and read back as it was."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.study.results import ArmResult
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store, fingerprint

STUDY = Study(title="t", spec={"environment": "bandit"}, arms={"a": {}, "b": {}}, seeds=[3, 5]).model_dump(mode="json")
ABOUT = {"arms": ["a", "b"]}


def result(name: str = "a") -> ArmResult:
    """An arm with something in every field, a NaN and an infinity among it."""
    return ArmResult(
        name=name,
        spec={"environment": {"name": "bandit", "arms": 3}},
        parameters={"arm": name, "optimizer.lr": 0.1},
        seeds=(3, 5),
        x={"iteration": np.array([1.0, 2.0]), "steps": np.array([10.0, 20.0])},
        curves={"return": np.array([[1.0, np.nan], [2.0, np.inf]])},
        exact={"bias": 0.25},
        weights={"logits": np.array([[1.0], [2.0]], dtype=np.float32)},
        failed=np.array([False, True]),
        references={"return": {"optimum": 3.0}},
        warnings=("a warning",),
        seconds=1.5,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "run")
    made.open("name", STUDY, ABOUT)
    return made


def hidden(store: Store) -> list[Path]:
    return [path for path in store.directory.rglob("*") if path.name.startswith(".")]


def test_a_finished_arm_is_read_back_as_it_was(store: Store) -> None:
    store.finish(result())
    found, due = store.result("a"), result()
    assert found is not None
    for name in ("name", "spec", "parameters", "seeds", "exact", "references", "warnings", "seconds"):
        assert getattr(found, name) == getattr(due, name)
    for name in ("x", "curves", "weights"):
        assert getattr(found, name).keys() == getattr(due, name).keys()
        for key, array in getattr(due, name).items():
            np.testing.assert_array_equal(getattr(found, name)[key], array, strict=True)
    np.testing.assert_array_equal(found.failed, due.failed, strict=True)


def test_metrics_and_axes_are_read_back_in_their_order(store: Store) -> None:
    one = np.zeros((2, 2))
    names = ["return", "accuracy", "kl"]
    axes = ["steps", "episodes", "iteration"]
    store.finish(replace(result(), curves=dict.fromkeys(names, one), x=dict.fromkeys(axes, one[0])))
    found = store.result("a")
    assert found is not None and [list(found.curves), list(found.x)] == [names, axes]


def test_an_arm_that_is_not_there_is_none(store: Store) -> None:
    assert store.result("a") is None and store.checkpoint("a") is None


def test_a_checkpoint_is_read_back_with_shapes_and_dtypes(store: Store) -> None:
    arrays = {
        "step": np.array(7.0, dtype=np.float32),  # no axis, as Adam's counter
        "alive": np.array([True, False]),
        "ages": np.arange(6).reshape(2, 3).T,  # not contiguous
        "none": np.zeros((2, 0)),
    }
    store.save_checkpoint("a", arrays, {"done": 3.5, "iterations": [1, 2]})
    found = store.checkpoint("a")
    assert found is not None and found[1] == {"done": 3.5, "iterations": [1, 2]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[0][name], array, strict=True)


def test_finishing_an_arm_drops_its_checkpoint(store: Store) -> None:
    store.save_checkpoint("a", {}, {})
    store.finish(result())
    assert store.checkpoint("a") is None


def test_the_results_are_the_finished_arms_in_the_study_s_order(store: Store) -> None:
    store.finish(result("b"))
    store.finish(result("a"))
    found = store.results()
    assert [arm.name for arm in found.arms] == ["a", "b"] and found.warnings == ()
    assert (found.name, found.study, found.directory) == ("name", Study.model_validate(STUDY), str(store.directory))


def test_the_results_tell_how_many_arms_are_lacking(store: Store) -> None:
    store.finish(result("b"))
    assert store.results().warnings == ("1 of 2 arms are not finished",)


def test_the_same_study_may_go_on(store: Store) -> None:
    store.finish(result())
    Store(store.directory).open("name", STUDY, ABOUT)
    assert store.result("a") is not None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"seeds": [3, 6]}, "study.seeds"),
        ({"spec": {"environment": "walk"}}, "study.spec.environment"),
        ({"spec": {}}, "study.spec.environment"),
        ({"arms": {"a": {}, "b": {}, "c": {}}}, "study.arms.c"),
    ],
)
def test_another_study_is_refused_with_what_differs(store: Store, change: dict[str, Any], where: str) -> None:
    with pytest.raises(LabError, match=rf"{store.directory} holds another study \({where} differs\). Choose another"):
        store.open("name", STUDY | change, ABOUT)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "another"},
        {"description": "more"},
        {"scores": {"last": {"metric": "return"}}},
        {"figures": [{"kind": "curve", "y": "return"}]},
        {"conclusions": [{"kind": "order", "statement": "s", "better": "a", "worse": "b"}]},
    ],
)
def test_a_study_that_is_told_otherwise_goes_on_and_is_kept(store: Store, change: dict[str, Any]) -> None:
    store.finish(result())
    store.open("another name", STUDY | change, ABOUT)
    held = store.results()
    assert held.name == "another name" and held.study == Study.model_validate(STUDY | change)
    assert [arm.name for arm in held.arms] == ["a"]


def test_arms_that_begin_with_the_weights_of_others_are_another_study(store: Store) -> None:
    store.open("name", STUDY, ABOUT)
    with pytest.raises(LabError, match=r"holds another study \(stages differs\)"):
        store.open("name", STUDY, ABOUT, stages=["a", "b"])


def test_what_was_recorded_first_stays_and_what_it_went_on_with_is_added(store: Store) -> None:
    before, after = ABOUT | {"versions": {"torch": "2.13"}}, ABOUT | {"versions": {"torch": "2.14"}}
    store.open("name", STUDY, before)  # nothing is computed yet, so there is nothing to keep of the fixture's
    store.finish(result())
    assert store.open("name", STUDY, before) == before
    assert store.open("name", STUDY, after) == before | {"resumed": [after]}
    for again in (before, after):
        assert store.open("name", STUDY, again) == before | {"resumed": [after]}
    assert json.loads((store.directory / "provenance.json").read_text()) == before | {"resumed": [after]}


def test_provenance_that_does_not_change_is_left_as_it_is(store: Store) -> None:
    store.finish(result())
    before = (store.directory / "provenance.json").read_text()
    store.open("name", STUDY, ABOUT)
    assert (store.directory / "provenance.json").read_text() == before


def test_arms_in_another_order_are_read_in_that_order(store: Store) -> None:
    for name in ("a", "b"):
        store.finish(result(name))
    store.open("name", STUDY | {"arms": {"b": {}, "a": {}}}, {"arms": ["b", "a"]})
    assert [arm.name for arm in store.results().arms] == ["b", "a"]


def plugin(name: str, distribution: str, **state: str) -> dict[str, Any]:
    return ABOUT | {"plugins": [{"name": name, "distribution": distribution, **state}]}


@pytest.mark.parametrize("begun", ["finished", "checkpoint"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (plugin("my.py", "local", sha256="1"), plugin("my.py", "local", sha256="2")),
        (plugin("theirs:p", "theirs", version="1.0"), plugin("theirs:p", "theirs", version="1.1")),
        (ABOUT, plugin("my.py", "local", sha256="1")),
        (plugin("my.py", "local", sha256="1"), ABOUT),
    ],
)
def test_arms_of_a_plugin_in_another_state_are_refused(
    store: Store, before: dict[str, Any], after: dict[str, Any], begun: str
) -> None:
    store.open("name", STUDY, before)
    store.finish(result()) if begun == "finished" else store.save_checkpoint("a", {}, {})
    with pytest.raises(LabError, match=r"computed with plugin '(my.py|theirs:p)' in another state.*--out, or remove"):
        store.open("name", STUDY, after)
    assert json.loads((store.directory / "provenance.json").read_text()) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (plugin("my.py", "local", sha256="1"), plugin("./my.py", "local", sha256="1")),  # the same file
        (plugin("rlhf-lab:a", "rlhf-lab", version="1"), plugin("rlhf-lab:a", "rlhf-lab", version="2")),  # as torch's
    ],
)
def test_a_plugin_in_the_same_state_goes_on(store: Store, before: dict[str, Any], after: dict[str, Any]) -> None:
    store.open("name", STUDY, before)
    store.finish(result())
    assert store.open("name", STUDY, after) == before | {"resumed": [after]}


def test_a_plugin_may_change_before_anything_is_computed(store: Store) -> None:
    store.open("name", STUDY, plugin("my.py", "local", sha256="1"))
    after = plugin("my.py", "local", sha256="2")
    assert store.open("name", STUDY, after) == after


def test_another_study_leaves_everything_as_it_is(store: Store) -> None:
    before = (store.directory / "study.json").read_text()
    with pytest.raises(LabError):
        store.open("name", STUDY | {"seeds": 1}, ABOUT)
    assert (store.directory / "study.json").read_text() == before


def test_nothing_but_whole_files_is_left(store: Store) -> None:
    store.finish(result())
    assert hidden(store) == []
    assert sorted(path.name for path in store.directory.rglob("*.*")) == [
        "a.safetensors",
        "provenance.json",
        "study.json",
    ]


def test_files_may_be_read_by_whom_the_umask_allows(store: Store) -> None:
    before = os.umask(0o027)
    try:
        store.finish(result())
        store.write_text(store.directory / "report.html", "x")
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in (store.directory / "report.html", store.arms / "a.safetensors")} == {
        "0o640"
    }


@pytest.mark.parametrize("broken", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(
    store: Store, monkeypatch: pytest.MonkeyPatch, broken: BaseException
) -> None:
    store.save_checkpoint("a", {"x": np.array([1.0])}, {})

    def fail(descriptor: int) -> None:
        raise broken

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((LabError, KeyboardInterrupt)):
        store.save_checkpoint("a", {"x": np.array([2.0])}, {})
    found = store.checkpoint("a")
    assert found is not None and found[0]["x"].tolist() == [1.0] and hidden(store) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root may mount one."""
    libc, place = ctypes.CDLL(None, use_errno=True), str(tmp_path).encode()
    if libc.mount(b"none", place, b"tmpfs", 0, b"size=64k"):
        pytest.skip(f"cannot mount a small file system: {os.strerror(ctypes.get_errno())}")
    yield tmp_path
    libc.umount2(place, 2)


def test_a_full_disk_is_told_and_keeps_what_was_finished(full_disk: Path) -> None:
    store = Store(full_disk / "run")
    store.open("name", STUDY, ABOUT)
    store.finish(result())
    with pytest.raises(
        LabError, match=rf"cannot write in {store.directory}: .*What was finished before is kept; make room"
    ):
        store.save_checkpoint("b", {"x": np.zeros(100_000)}, {})
    assert store.result("a") is not None and store.checkpoint("b") is None and hidden(store) == []


def test_a_full_disk_is_told_for_text(full_disk: Path) -> None:
    store = Store(full_disk / "run")
    with pytest.raises(LabError, match="No space left on device"):
        store.write_text(store.directory / "report.html", "x" * 100_000)


@pytest.mark.parametrize("act", ["open", "write"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, act: str) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "run")
    with pytest.raises(
        LabError, match=rf"cannot write in {store.directory}: .*Not a directory.*choose another directory"
    ):
        store.open("name", STUDY, ABOUT) if act == "open" else store.write_text(store.directory / "report.html", "x")


def test_a_file_where_the_directory_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(LabError, match=f"cannot write in {tmp_path / 'run'}"):
        Store(tmp_path / "run").open("name", STUDY, ABOUT)


@pytest.mark.parametrize("content", [b"", b"half a fi", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_arm_is_told(store: Store, content: bytes) -> None:
    (store.arms / "a.safetensors").write_bytes(content)
    with pytest.raises(LabError, match=r"a.safetensors is damaged \(.*\); remove it, and its arm runs anew"):
        store.result("a")


def test_an_arm_s_file_that_lacks_something_is_told(store: Store) -> None:
    store.save_checkpoint("a", {}, {})
    (store.arms / "a.checkpoint.safetensors").rename(store.arms / "a.safetensors")
    with pytest.raises(LabError, match=r"a.safetensors is damaged"):
        store.result("a")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", '{"name": "name"}'])
@pytest.mark.parametrize("act", ["open", "results"])
def test_a_damaged_study_is_told(store: Store, content: str, act: str) -> None:
    (store.directory / "study.json").write_text(content)
    with pytest.raises(LabError, match=r"study.json is damaged \(.*\); remove the directory and run again"):
        store.open("name", STUDY, ABOUT) if act == "open" else store.results()


def test_a_study_of_another_version_is_told(store: Store) -> None:
    (store.directory / "study.json").write_text(json.dumps({"name": "name", "study": {"titel": "t"}}))
    with pytest.raises(LabError, match=r"study.json holds a study that this version cannot read"):
        store.results()


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_damaged_provenance_is_told(store: Store, content: str | None) -> None:
    path = store.directory / "provenance.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(LabError, match=r"provenance.json is damaged"):
        store.results()


def test_a_directory_that_is_no_run_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"{tmp_path} is no run directory: it has no study.json"):
        Store(tmp_path).results()


@pytest.mark.parametrize(
    "name", ["gae lam=0.9", "a/b", "../a", "", ".", "..", "ä", "x" * 300, "x" * 299 + "y", "a.checkpoint", "A b", "A-b"]
)
def test_an_arm_may_have_any_name(store: Store, name: str) -> None:
    store.finish(result(name))
    found = store.result(name)
    assert found is not None and found.name == name
    assert [path.parent for path in store.directory.rglob("*.safetensors")] == [store.arms]


def test_names_that_differ_only_in_odd_characters_have_their_own_files(store: Store) -> None:
    odd = ["a b", "a/b", "a?b", "x" * 300, "x" * 299 + "y"]
    for name in odd:
        store.finish(result(name))
    assert [getattr(store.result(name), "name", None) for name in odd] == odd


def test_an_arm_and_another_one_s_checkpoint_do_not_share_a_file(store: Store) -> None:
    store.finish(result("a.checkpoint"))
    assert store.checkpoint("a") is None


def test_a_fingerprint_depends_on_content_and_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 2, "b": 1})
