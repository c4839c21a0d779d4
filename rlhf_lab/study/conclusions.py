"""What a study's data says of the claims and figures that it tests. Computed, never written by hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.study import bootstrap, forms, statistics, verdicts
from rlhf_lab.study.results import USUAL_SCORES, ArmResult, Results, matches, scored, selected
from rlhf_lab.study.schema import Best, Bound, Conclusion, Figure, Form, Level, Order, Study
from rlhf_lab.study.verdicts import FEWEST, Finding

__all__ = ["Finding", "check_names", "check_quantities", "check_scores", "evaluate"]


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
    for name, score in study.scores.items():
        for pattern in score.arms:
            _check_pattern(f"scores.{name}.arms", pattern, arms)


def check_scores(study: Study, arms: Sequence[str], *, curved: Collection[str]) -> None:
    """Raise ``LabError`` where one asks for a curve or score of arms that have none; for use before the study runs.

    ``curved`` are those of the ``arms`` that have curves. A figure shows only arms that have what it shows: one is
    enough.
    """
    hint = "of it only exact quantities are measured. Name one, or let the arm `measure` more"
    scores = study.scores or (USUAL_SCORES if curved else {})
    for number, conclusion in enumerate(study.conclusions, 1):
        quantity = conclusion.quantity or next(iter(scores), "")
        bare = [name for name in _asked(conclusion, arms) if name not in curved]
        if bare and (isinstance(conclusion, Form) or quantity in scores):
            raise LabError(f"conclusion {number} asks for {quantity!r} of arm {bare[0]!r}, which has no curve: {hint}")
    for number, figure in enumerate(study.figures, 1):
        shown = selected(arms, figure.arms)
        names = _shown(figure)
        sampled = [name for name in names if figure.kind == "curve" or name in scores]
        if sampled and shown and not set(shown) & set(curved):
            raise LabError(f"figure {number} shows {sampled[0]!r} of arm {shown[0]!r}, which has no curve: {hint}")


def check_quantities(
    study: Study, arm: ArmResult, arms: Sequence[str], *, alike: Collection[str], curved: Sequence[str]
) -> None:
    """Raise ``LabError`` where a conclusion or figure asks for what ``arm`` shows to be unknown; for use while it runs.

    Scores and exact quantities are the same for all that are ``alike``, because they measure the same; of other
    ``arms`` nothing is known. A metric may be recorded by some only, so a curve is checked with the first arm that it
    shows of those that are ``curved``, which means that they have curves.
    """
    known = Results("", scored(study, [arm]), (arm,), {})
    for conclusion in study.conclusions:
        if isinstance(conclusion, Form):
            if conclusion.arm == arm.name:
                forms.judge(known, conclusion)
            continue
        if not set(_asked(conclusion, arms)) & set(alike):
            continue
        verdicts.quantity_of(known, conclusion)
        if isinstance(conclusion, Order | Best):
            verdicts.direction_of(known, conclusion)
    quantities = [*known.study.scores, *arm.exact]
    for number, figure in enumerate(study.figures, 1):
        if figure.kind == "curve":
            if [arm.name] == selected(curved, figure.arms)[:1]:
                _check_curve(f"figure {number}", figure, arm)
            continue
        for name in _shown(figure) if set(selected(arms, figure.arms)) <= set(alike) else ():
            if name not in quantities:
                raise LabError(
                    f"figure {number} shows {name!r}, which is neither a score nor an exact quantity. "
                    f"{did_you_mean(name, quantities)}"
                )


def evaluate(results: Results) -> list[Finding]:
    """Judge every conclusion of the study, in its order; each kind's rule stands with its function in ``verdicts``.

    A conclusion about an arm that an interrupted study still lacks is undecided.
    """
    check_names(results.study, results.names)
    levels = _order_levels(results)
    findings = []
    for number, conclusion in enumerate(results.study.conclusions):
        if lacking := _lacking(results, conclusion):
            findings.append(verdicts.unfinished(results, conclusion, lacking[0]))
        elif isinstance(conclusion, Order):
            findings.append(verdicts.order(results, conclusion, levels.get(number, (False, 0.05))))
        elif isinstance(conclusion, Level):
            findings.append(verdicts.level(results, conclusion))
        elif isinstance(conclusion, Bound):
            findings.append(verdicts.bound(results, conclusion))
        elif isinstance(conclusion, Best):
            findings.append(verdicts.best(results, conclusion))
        elif isinstance(conclusion, Form):
            findings.append(forms.judge(results, conclusion))
        else:
            findings.append(verdicts.share(results, conclusion))
    return findings


def _order_levels(results: Results) -> dict[int, tuple[bool, float]]:
    """Judge all sampled order conclusions together: number of the conclusion -> (rejected, level) by Holm."""
    numbers, p_values = [], []
    for number, conclusion in enumerate(results.study.conclusions):
        if not isinstance(conclusion, Order):
            continue
        if _lacking(results, conclusion):
            numbers.append(number)
            p_values.append(1.0)  # it will take part: the others' levels are not to loosen while it is missing
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


def _asked(conclusion: Conclusion, arms: Sequence[str]) -> list[str]:
    """Return the ``arms`` that a conclusion is about."""
    return selected(arms, conclusion.among) if isinstance(conclusion, Best) else _names(conclusion)[0]


def _shown(figure: Figure) -> tuple[str, ...]:
    """Return the metric or the quantities that a figure shows."""
    return (figure.x, figure.y) if figure.kind == "frontier" else (figure.y,)


def _lacking(results: Results, conclusion: Conclusion) -> list[str]:
    """Return the arms that a conclusion needs and an interrupted study still lacks."""
    needed = _asked(conclusion, results.names)
    return [name for name in results.unfinished if name in needed]


def _check_curve(where: str, figure: Figure, arm: ArmResult) -> None:
    hint = f"A curve's first arm must have it; where only others do, leave this one out: arms: ['!{arm.name}']"
    for name, known in ((figure.y, arm.curves), (figure.x, {**arm.x, **arm.curves})):
        if name not in known:
            raise LabError(
                f"{where} shows {name!r}, which arm {arm.name!r} does not record. {did_you_mean(name, known)} {hint}"
            )


def _check_pattern(where: str, pattern: str, arms: Sequence[str]) -> None:
    pattern = pattern.removeprefix("!")
    if not any(matches(name, [pattern]) for name in arms):
        raise LabError(f"{where}: no arm matches {pattern!r}. {did_you_mean(pattern, arms)}")
