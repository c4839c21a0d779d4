"""What a study's data says of the claims and figures that it tests. Computed, never written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.study import bootstrap, statistics, verdicts
from rlhf_lab.study.results import Results, matches
from rlhf_lab.study.schema import Best, Conclusion, Level, Order, Study
from rlhf_lab.study.verdicts import FEWEST, Finding

__all__ = ["Finding", "check_names", "evaluate"]


def check_names(study: Study, arms: Sequence[str]) -> None:
    """Raise ``LabError`` where a conclusion or figure names an arm that is not there; for use before the study runs."""
    for number, conclusion in enumerate(study.conclusions, 1):
        named, patterns = _names(conclusion)
        for name in named:
            if name not in arms:
                raise LabError(f"conclusion {number}: no arm is called {name!r}. {did_you_mean(name, arms)}")
        for pattern in patterns:
            _check_pattern(f"conclusion {number}", pattern, arms)
    for number, figure in enumerate(study.figures, 1):
        for pattern in figure.arms:
            _check_pattern(f"figure {number}", pattern, arms)


def evaluate(results: Results) -> list[Finding]:
    """Judge every conclusion of the study, in its order; each kind's rule stands with its function in ``verdicts``."""
    check_names(results.study, [arm.name for arm in results.arms])
    levels = _order_levels(results)
    findings = []
    for number, conclusion in enumerate(results.study.conclusions):
        if isinstance(conclusion, Order):
            findings.append(verdicts.order(results, conclusion, levels.get(number, (False, 0.05))))
        elif isinstance(conclusion, Level):
            findings.append(verdicts.level(results, conclusion))
        elif isinstance(conclusion, Best):
            findings.append(verdicts.best(results, conclusion))
        else:
            findings.append(verdicts.share(results, conclusion))
    return findings


def _order_levels(results: Results) -> dict[int, tuple[bool, float]]:
    """Judge all sampled order conclusions together: number of the conclusion -> (rejected, level) by Holm."""
    numbers, p_values = [], []
    for number, conclusion in enumerate(results.study.conclusions):
        if not isinstance(conclusion, Order):
            continue
        quantity = verdicts.quantity_of(results, conclusion)
        if verdicts.is_exact(results, quantity):
            continue
        names = (conclusion.better, conclusion.worse)
        first, second, _ = verdicts.pair(results, names, quantity, verdicts.direction_of(results, conclusion))
        if len(first) >= FEWEST:
            numbers.append(number)
            p_values.append(bootstrap.p_value(first - second))
    return dict(zip(numbers, zip(*statistics.holm(p_values), strict=True), strict=True))


def _names(conclusion: Conclusion) -> tuple[list[str], list[str]]:
    """Return the arms and the shell patterns that a conclusion names."""
    if isinstance(conclusion, Order):
        return [conclusion.better, conclusion.worse], []
    if isinstance(conclusion, Best):
        return [], [*conclusion.among, conclusion.expected]
    return [conclusion.arm], []


def _check_pattern(where: str, pattern: str, arms: Sequence[str]) -> None:
    pattern = pattern.removeprefix("!")
    if not any(matches(name, [pattern]) for name in arms):
        raise LabError(f"{where}: no arm matches {pattern!r}. {did_you_mean(pattern, arms)}")
