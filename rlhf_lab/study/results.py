"""What a study found, in memory: plain NumPy, no torch. Report, tables and pandas read this and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.study.schema import Score, Study
from rlhf_lab.training.exhibits import Exhibit

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ArmResult", "Array", "Results", "matches", "scored", "selected", "shared_scores", "study_to_plain"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ArmResult:
    """One arm: curves over recorded points, one column per seed, and exact quantities that need no seed."""

    name: str
    spec: Mapping[str, Any]  # resolved, every default filled in
    parameters: Mapping[str, Any]  # dotted path -> value of everything that tells this arm from the common spec
    seeds: tuple[int, ...]
    x: Mapping[str, Array] = field(default_factory=dict)  # "iteration", "steps", "episodes": [points], mean over seeds
    curves: Mapping[str, Array] = field(default_factory=dict)  # metric -> [points, seeds]; NaN where not defined
    exact: Mapping[str, float] = field(default_factory=dict)  # quantity -> exact value
    failed: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))  # [seeds]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric -> optimum, uniform, reference
    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)  # final weights, seed axis first
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    world: Mapping[str, Any] = field(default_factory=dict)  # the environment's parameters that the truth depends on
    exhibits: tuple[Exhibit, ...] = ()  # of the first seed's policy

    def curve(self, metric: str) -> Array:
        """Return ``[points, seeds]``: a recorded metric, NaN for failed seeds; ``LabError`` where there is none."""
        if metric not in self.curves:
            raise LabError(f"arm {self.name!r} has no metric {metric!r}. {did_you_mean(metric, self.curves)}")
        return np.where(self.failed, np.nan, self.curves[metric]) if len(self.failed) else self.curves[metric]

    def score(self, score: Score) -> Array:
        """Return ``[seeds]``: the score of each seed. A failed seed is NaN."""
        curve = self.curve(score.metric)
        points = len(curve)
        if score.at == "first":
            part = curve[:1]
        elif score.at == "last":
            part = curve[-1:]
        elif score.at == "mean":
            part = curve
        else:
            low = min(int(score.window[0] * points), max(points - 1, 0))
            part = curve[low : max(low + 1, round(score.window[1] * points))]
        defined = ~np.isnan(part)
        count = defined.sum(axis=0)
        value = np.where(defined, part, 0).sum(axis=0) / np.maximum(count, 1)
        return np.where(count == 0, np.nan, value)


USUAL_SCORES: Final[Mapping[str, Literal["higher", "lower"]]] = {
    "exact_return": "higher",
    "episode_return": "higher",
    "objective_gap": "lower",
    "true_gain": "higher",
    "chosen_gain": "higher",
    "accuracy": "higher",
    "regret": "lower",
    "optimal_action": "higher",
    "value_error": "lower",
}


def scored(study: Study, arms: Iterable[ArmResult]) -> Study:
    """Return the study; where it names no score, with the last point of the usual metrics that every arm has.

    Arms without any curve do not count.
    """
    if study.scores:
        return study
    common = [set(arm.curves) for arm in arms if arm.curves]
    metrics = set.intersection(*common) if common else set()
    scores = {name: Score(metric=name, better=better) for name, better in USUAL_SCORES.items() if name in metrics}
    return study.model_copy(update={"scores": scores})


def matches(name: str, patterns: list[str]) -> bool:
    """Return whether an arm's name is one of the patterns, or matches it as a shell pattern."""
    return any(fnmatchcase(name, pattern) or name == pattern for pattern in patterns)


def selected(names: Iterable[str], patterns: list[str]) -> list[str]:
    """Return the names that match a shell pattern, and none that begins with ``!``, in their order."""
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    return [name for name in names if matches(name, wanted) and not matches(name, unwanted)]


def shared_scores(arms: Sequence[ArmResult], score_of: Callable[[ArmResult], Array]) -> list[Array]:
    """Return each arm's scores on the seeds that all of them have, in one order, so that they can be paired."""
    shared = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    return [score_of(arm)[[arm.seeds.index(seed) for seed in shared]] for arm in arms]


def study_to_plain(study: Study) -> dict[str, Any]:
    """Return the study as JSON data that reads back as the same study.

    Figures that were left out stay out: they mean the usual one, an empty list means none.
    """
    left_out = {"figures"} - study.model_fields_set
    return study.model_dump(mode="json", exclude=left_out)


@dataclass(frozen=True)
class Results:
    """All arms of a study with their provenance."""

    name: str
    study: Study
    arms: tuple[ArmResult, ...]
    provenance: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    directory: str = ""
    chain: bool = False  # the arms are stages: each began with the weights of those before

    @property
    def names(self) -> list[str]:
        """All arms of the study: those that are finished, and those that an interrupted study still lacks."""
        return list(self.provenance.get("arms") or (arm.name for arm in self.arms))

    @property
    def unfinished(self) -> list[str]:
        """The arms that an interrupted study still lacks."""
        finished = {arm.name for arm in self.arms}
        return [name for name in self.names if name not in finished]

    def arm(self, name: str) -> ArmResult:
        """Return the arm called ``name``."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise LabError(f"no arm is called {name!r}. {did_you_mean(name, (a.name for a in self.arms))}")

    def matching(self, patterns: list[str]) -> list[ArmResult]:
        """Return the arms whose name matches a shell pattern, and none that begins with ``!``, in the study's order."""
        names = set(selected((arm.name for arm in self.arms), patterns))
        return [arm for arm in self.arms if arm.name in names]

    def scores_of(self, arm: ArmResult) -> dict[str, Score]:
        """Return the study's scores that the arm has."""
        scores = self.study.scores.items()
        return {name: s for name, s in scores if s.metric in arm.curves and selected([arm.name], s.arms)}

    def quantity(self, arm: ArmResult, name: str) -> Array:
        """Return a score (``[seeds]``) or an exact quantity (``[1]``) of an arm by its name."""
        if name in self.study.scores:
            return arm.score(self.study.scores[name])
        if name in arm.exact:
            return np.array([arm.exact[name]])
        raise LabError(
            f"arm {arm.name!r} has neither a score nor an exact quantity {name!r}. "
            f"{did_you_mean(name, [*self.study.scores, *arm.exact])}"
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per arm, seed, metric and recorded point, and one per exact quantity (seed is NA)."""
        import pandas as pd

        frames = []
        for arm in self.arms:
            for metric, curve in arm.curves.items():
                points, seeds = curve.shape
                frames.append(
                    pd.DataFrame(
                        {
                            "arm": arm.name,
                            "seed": pd.array(np.tile(arm.seeds, points), dtype="Int64"),
                            "metric": metric,
                            **{axis: np.repeat(x, seeds) for axis, x in arm.x.items()},
                            "value": curve.ravel(),
                        }
                    )
                )
            if arm.exact:
                exact = pd.DataFrame({"arm": arm.name, "metric": list(arm.exact), "value": list(arm.exact.values())})
                frames.append(exact.assign(seed=pd.array([None] * len(exact), dtype="Int64")))
        return (
            pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["arm", "seed", "metric", "value"])
        )

    def _repr_html_(self) -> str:
        from rlhf_lab.study.report.page import notebook_html

        return notebook_html(self)
