"""The run directory: resolved study, provenance, one file per arm. Written atomically, never pickled.

study.json          the resolved study; one that runs anything else is refused here
provenance.json     versions, plugins, hardware, seeds; under "resumed" whatever it went on with that was different
arms/NAME.safetensors               a finished arm: curves, final weights, the rest as JSON metadata
arms/NAME.checkpoint.safetensors    an unfinished arm: learner state and curves so far, in one file
arms/NAME-STAGE-...safetensors      the same of an arm's stages, until the arm is finished
report.html results.json scores.csv curves.csv
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rlhf_lab.errors import LabError
from rlhf_lab.study.provenance import changed_file, changed_plugin, resumed
from rlhf_lab.study.results import ArmResult, Results, scored
from rlhf_lab.study.schema import Study
from rlhf_lab.training.exhibits import Exhibit

__all__ = ["Checkpoint", "Store", "fingerprint"]

Checkpoint = tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]
"""Arrays by name, and JSON metadata."""

SHOWN: Final = ("title", "description", "scores", "figures", "conclusions")  # of a study; the rest decides what runs


def fingerprint(data: Any) -> str:
    """Return eight hex digits that change with any part of ``data``."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:8]


class Store:
    """One run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.arms = directory / "arms"

    def open(
        self, name: str, study: Mapping[str, Any], provenance: Mapping[str, Any], *, stages: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Create the directory, or go on in one whose arms are what this study would run; return its provenance.

        ``stages`` are the arms in order where each begins with the weights of the one before. Raises ``LabError`` where
        the directory holds another study, or arms that another state of a plugin or of a data file computed.
        """
        path, about = self.directory / "study.json", self.directory / "provenance.json"
        resolved = {"name": name, "stages": list(stages), "study": _plain(study)}
        kept = _plain(provenance)
        if path.exists():
            held = self._read_json(path, "name", "study")
            if where := _difference(_running(held), _running(resolved)):
                raise LabError(
                    f"{self.directory} holds another study ({where} differs). "
                    "Choose another directory with --out, or remove this one"
                )
        if any(self.arms.glob("*.safetensors")):
            before = self._read_json(about, "arms")
            if changed := changed_plugin(before, kept):
                raise LabError(
                    f"{self.directory} holds arms computed with plugin {changed!r} in another state (its source or "
                    "version differs). Choose another directory with --out, or remove this one"
                )
            if changed := changed_file(before, kept):
                raise LabError(
                    f"{self.directory} holds arms computed before {changed} had its present content. "
                    "Choose another directory with --out, or remove this one"
                )
            kept = resumed(before, kept)
        self._guard(lambda: self.arms.mkdir(parents=True, exist_ok=True))
        self.write_text(path, json.dumps(resolved, indent=1))
        self.write_text(about, json.dumps(kept, indent=1))
        return kept

    def result(self, arm: str) -> ArmResult | None:
        """Return a finished arm, or None."""
        path = self.arms / f"{_slug(arm)}.safetensors"
        found = self._read(path)
        if found is None:
            return None
        arrays, meta = found
        try:
            return ArmResult(
                name=meta["name"],
                spec=meta["spec"],
                parameters=meta["parameters"],
                seeds=tuple(meta["seeds"]),
                x={k[2:]: v for k, v in arrays.items() if k.startswith("x/")},
                curves={k[6:]: v for k, v in arrays.items() if k.startswith("curve/")},
                exact=meta["exact"],
                weights={k[7:]: v for k, v in arrays.items() if k.startswith("weight/")},
                failed=arrays["failed"].astype(np.bool_),
                references=meta["references"],
                warnings=tuple(meta["warnings"]),
                seconds=meta["seconds"],
                world=meta["world"],
                exhibits=tuple(Exhibit.from_plain(exhibit) for exhibit in meta.get("exhibits", ())),
            )
        except KeyError as error:
            raise LabError(f"{path} is damaged (it has no {error}); remove it, and its arm runs anew") from None

    def finish(self, arm: ArmResult) -> None:
        """Keep a finished arm and drop its checkpoint."""
        arrays = {f"x/{k}": v for k, v in arm.x.items()} | {f"curve/{k}": v for k, v in arm.curves.items()}
        arrays |= {f"weight/{k}": v for k, v in arm.weights.items()}
        arrays["failed"] = arm.failed.astype(np.uint8)
        meta = {
            "name": arm.name,
            "spec": arm.spec,
            "parameters": arm.parameters,
            "seeds": arm.seeds,
            "exact": arm.exact,
            "references": arm.references,
            "warnings": arm.warnings,
            "seconds": arm.seconds,
            "world": arm.world,
            "exhibits": [asdict(exhibit) for exhibit in arm.exhibits],
        }
        self._write(self.arms / f"{_slug(arm.name)}.safetensors", arrays, meta)
        self._guard(lambda: (self.arms / f"{_slug(arm.name)}.checkpoint.safetensors").unlink(missing_ok=True))

    def checkpoint(self, arm: str) -> Checkpoint | None:
        """Return an unfinished arm's arrays and metadata, or None."""
        return self._read(self.arms / f"{_slug(arm)}.checkpoint.safetensors")

    def save_checkpoint(self, arm: str, arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> None:
        """Keep an unfinished arm; state and curves stand in one file, so that they always belong together."""
        self._write(self.arms / f"{_slug(arm)}.checkpoint.safetensors", arrays, meta)

    def forget(self, arm: str) -> None:
        """Remove what is kept of an arm or of a stage, finished or not."""
        for ending in ("", ".checkpoint"):
            self._guard(partial((self.arms / f"{_slug(arm)}{ending}.safetensors").unlink, missing_ok=True))

    def results(self) -> Results:
        """Return what the directory holds: all arms that are finished, in the study's order."""
        path = self.directory / "study.json"
        if not path.exists():
            raise LabError(f"{self.directory} is no run directory: it has no study.json")
        held = self._read_json(path, "name", "study")
        try:
            study = Study.model_validate(held["study"])
        except ValidationError:
            raise LabError(f"{path} holds a study that this version cannot read; run it again elsewhere") from None
        provenance = self._read_json(self.directory / "provenance.json", "arms")
        arms = [arm for name in provenance["arms"] if (arm := self.result(name)) is not None]
        lacking = len(provenance["arms"]) - len(arms)
        warnings = (f"{lacking} of {len(provenance['arms'])} arms are not finished",) if lacking else ()
        study, chain = scored(study, arms), bool(held.get("stages"))
        return Results(held["name"], study, tuple(arms), provenance, warnings, str(self.directory), chain)

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file atomically."""
        self._guard(lambda: _replace(path, text.encode()))

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> None:
        plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        text = {"json": json.dumps(meta, default=str), "order": json.dumps(list(plain))}  # keys are sorted on the disk
        self._guard(lambda: _replace(path, save(plain, metadata=text)))

    def _read(self, path: Path) -> Checkpoint | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata()
                return {name: file.get_tensor(name) for name in json.loads(about["order"])}, json.loads(about["json"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise LabError(f"{path} is damaged ({error}); remove it, and its arm runs anew") from None

    def _read_json(self, path: Path, *keys: str) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            lacking = [key for key in keys if key not in data]
            if lacking:
                raise ValueError(f"it has no {lacking[0]!r}")
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{path} is damaged ({error}); remove the directory and run again") from None
        return data

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            raise LabError(
                f"cannot write in {self.directory}: {error}. What was finished before is kept; "
                "make room or choose another directory with --out, then run the same command again"
            ) from None


def _replace(path: Path, data: bytes) -> None:
    """Write beside ``path``, then rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _slug(name: str) -> str:
    """Return a file name for an arm; a digest keeps names apart that differ only in odd characters or far behind."""
    plain = re.sub(r"[^A-Za-z0-9.=_-]+", "-", name).strip("-")[:80]
    return plain if plain == name and not name.endswith(".checkpoint") else f"{plain}-{fingerprint(name)}"


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data as a JSON file gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(data, default=str))
    return plain


def _running(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a ``study.json`` decides which numbers its arms have."""
    study = held["study"]
    decisive = {key: value for key, value in study.items() if key not in SHOWN} if isinstance(study, dict) else study
    return {"stages": held.get("stages", []), "study": decisive}


def _difference(a: Any, b: Any, path: str = "") -> str:
    """Return the first path at which two JSON objects differ, or nothing."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return _difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    return path
