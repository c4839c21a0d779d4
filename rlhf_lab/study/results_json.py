"""``results.json``: everything a report is made of, so that it can be rebuilt, and read by other programs.

Strict JSON: NaN is ``null``, infinities are the strings ``"Infinity"`` and ``"-Infinity"``. Numbers keep every bit.
``conclusions`` are there for other programs; reading computes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite, isnan
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from rlhf_lab.errors import LabError
from rlhf_lab.study.conclusions import Finding, evaluate
from rlhf_lab.study.results import ArmResult, Array, Results, study_to_plain
from rlhf_lab.study.schema import Study
from rlhf_lab.training.exhibits import Exhibit

__all__ = ["results_from_json", "results_to_json"]

FORMAT: Final = 1


def results_to_json(results: Results, findings: list[Finding] | None = None) -> str:
    """Write results as JSON; equal results give equal text. ``findings`` saves judging the conclusions again."""
    return json.dumps(
        {
            "format": FORMAT,
            "name": results.name,
            "chain": results.chain,
            "conclusions": [
                _plain(asdict(finding)) for finding in (evaluate(results) if findings is None else findings)
            ],
            "warnings": list(results.warnings),
            "provenance": _plain(results.provenance),
            "study": _plain(study_to_plain(results.study)),
            "arms": [_arm_to_plain(arm) for arm in results.arms],
        },
        allow_nan=False,
        ensure_ascii=False,
        separators=(",", ":"),
    )


def results_from_json(content: str, directory: str = "") -> Results:
    """Read results back. Raises ``LabError`` where the text is not what ``results_to_json`` writes."""
    try:
        data = json.loads(content)
        if data["format"] != FORMAT:
            raise LabError(
                f"results.json has format {data['format']!r}, this version reads {FORMAT}. Run the study again"
            )
        return Results(
            name=data["name"],
            study=Study.model_validate(data["study"]),
            arms=tuple(_arm_from_plain(arm) for arm in data["arms"]),
            provenance=data["provenance"],
            warnings=tuple(data["warnings"]),
            directory=directory,
            chain=data.get("chain", False),
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise LabError(f"results.json cannot be read ({type(error).__name__}: {error}). Run the study again") from error


def _arm_to_plain(arm: ArmResult) -> dict[str, Any]:
    return {
        "name": arm.name,
        "spec": _plain(arm.spec),
        "parameters": _plain(arm.parameters),
        "seeds": list(arm.seeds),
        "failed": arm.failed.tolist(),
        "exact": _plain(arm.exact),
        "references": _plain(arm.references),
        "warnings": list(arm.warnings),
        "seconds": arm.seconds,
        "world": _plain(arm.world),
        "exhibits": [_plain(asdict(exhibit)) for exhibit in arm.exhibits],
        "x": {axis: _plain(x) for axis, x in arm.x.items()},
        "curves": {metric: _plain(curve) for metric, curve in arm.curves.items()},
    }


def _arm_from_plain(data: Mapping[str, Any]) -> ArmResult:
    seeds = tuple(int(seed) for seed in data["seeds"])
    return ArmResult(
        name=data["name"],
        spec=data["spec"],
        parameters=data["parameters"],
        seeds=seeds,
        failed=np.array(data["failed"], dtype=np.bool_),
        exact={name: _number(x) for name, x in data["exact"].items()},
        references={
            metric: {name: _number(x) for name, x in values.items()} for metric, values in data["references"].items()
        },
        warnings=tuple(data["warnings"]),
        seconds=data["seconds"],
        world=data["world"],
        exhibits=tuple(Exhibit.from_plain(exhibit) for exhibit in data.get("exhibits", ())),
        x={axis: _array(x) for axis, x in data["x"].items()},
        curves={metric: _array(curve).reshape(-1, len(seeds)) for metric, curve in data["curves"].items()},
    )


def _plain(x: Any) -> Any:
    """Turn mappings, sequences, arrays and NumPy numbers into what strict JSON has."""
    if isinstance(x, np.ndarray):
        return x.tolist() if x.dtype.kind in "iub" or bool(np.isfinite(x).all()) else _plain(x.tolist())
    if isinstance(x, np.generic):
        return _plain(x.item())
    if isinstance(x, float) and not isfinite(x):
        return None if isnan(x) else "Infinity" if x > 0 else "-Infinity"
    if isinstance(x, Mapping):
        return {str(key): _plain(inner) for key, inner in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(inner) for inner in x]
    return x if x is None or isinstance(x, bool | int | float | str) else str(x)


def _number(x: float | str | None) -> float:
    return float("nan") if x is None else float(x)


def _array(x: list[Any]) -> Array:
    """Read nested lists; NumPy turns null into NaN and the infinities' names into numbers."""
    return np.array(x, dtype=object).astype(np.float64)
