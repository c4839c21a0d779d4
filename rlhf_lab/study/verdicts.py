"""The verdict on one conclusion of a study, from its data.

Each conclusion ends with one of three verdicts. ``undecided`` is an honest answer: the seeds do not suffice to tell.
- Fewer than ``FEWEST`` seeds decide nothing, except about exact quantities, which need no seed.
- A failed seed counts as the worst score of all arms compared, so an arm cannot win by failing.
- Exact quantities are compared as they are, up to rounding: no interval, and ``n`` is ``exact``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isnan, nan
from typing import Final, Literal

import numpy as np

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.study import bootstrap, statistics, text
from rlhf_lab.study.bootstrap import Array, Interval
from rlhf_lab.study.results import Results, matches, shared_scores
from rlhf_lab.study.schema import Best, Bound, Conclusion, Level, Order, Share
from rlhf_lab.study.statistics import Direction

__all__ = [
    "FEWEST",
    "Finding",
    "VerdictName",
    "best",
    "bound",
    "direction_of",
    "is_exact",
    "level",
    "order",
    "pair",
    "quantity_of",
    "share",
    "unfinished",
]

VerdictName = Literal["reproduced", "not reproduced", "undecided"]

FEWEST: Final = 5
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Finding:
    """A conclusion with the data's answer. ``effect`` is the number judged, ``interval`` its interval (None: exact).

    ``judged`` says in words what ``effect`` is, ``side`` on which side of ``published`` it should be (empty: neither).
    """

    statement: str
    claim: str
    source: str
    kind: str
    arms: tuple[str, ...]
    quantity: str
    judged: str
    effect: float
    interval: Interval | None
    n: int | Literal["exact"]
    published: float | None
    tolerance: float | None
    verdict: VerdictName
    because: str
    side: Literal["", "at least", "at most"] = ""


def order(results: Results, conclusion: Order, judged: tuple[bool, float]) -> Finding:
    """Judge that one arm beats another; ``judged``: whether Holm's test rejects their equality, and at which level.

    The interval of the paired difference excludes 0 on the side claimed: reproduced; on the other side: not reproduced;
    else undecided. Its level is Holm's over all of the study's sampled ``order`` conclusions.
    """
    quantity, better = quantity_of(results, conclusion), direction_of(results, conclusion)
    names = (conclusion.better, conclusion.worse)
    sign = 1 if better == "higher" else -1
    if is_exact(results, quantity):
        first, second = (_exact(results, name, quantity) for name in names)
        gap = sign * (first - second)
        rounding = _ROUNDING * max(abs(first), abs(second), 1e-300)
        verdict: VerdictName = "reproduced" if gap > rounding else "not reproduced"
        relation = "equals" if abs(gap) <= rounding else "against"
        because = f"exactly {text.short(first)} {relation} {text.short(second)}; {better} is better"
        return _finding(conclusion, names, quantity, first - second, None, "exact", verdict, because)
    first_scores, second_scores, failed = pair(results, names, quantity, better)
    rejected, alpha = judged
    gap_interval = statistics.paired_difference(first_scores, second_scores, level=1 - alpha)
    n = len(first_scores)
    if few := _too_few(n):
        return _finding(conclusion, names, quantity, gap_interval.value, gap_interval, n, "undecided", few + failed)
    if rejected and gap_interval.excludes(0):
        verdict = "reproduced" if sign * gap_interval.value > 0 else "not reproduced"
        side = "better" if verdict == "reproduced" else "worse"
        because = f"{names[0]} is {side} on shared seeds; the {_percent(alpha)} interval excludes 0"
    else:
        verdict = "undecided"
        needed = statistics.seeds_needed(first_scores - second_scores, alpha=alpha)
        because = f"the {_percent(alpha)} interval includes 0" + _would_decide(needed, n)
    return _finding(conclusion, names, quantity, gap_interval.value, gap_interval, n, verdict, because + failed)


def level(results: Results, conclusion: Level) -> Finding:
    """Judge that an arm's mean is a published figure.

    It is within ``tolerance`` of it, and its 95 % interval at most twice as wide as ``tolerance``: reproduced. The
    whole interval is outside of published ± tolerance: not reproduced. Else undecided.
    """
    quantity = quantity_of(results, conclusion)
    published, tolerance, names = conclusion.published, conclusion.tolerance, (conclusion.arm,)
    verdict: VerdictName
    if is_exact(results, quantity):
        value = _exact(results, conclusion.arm, quantity)
        off = abs(value - published)
        verdict = "reproduced" if off <= tolerance + _ROUNDING * abs(published) else "not reproduced"
        because = f"exactly {text.short(value, 6)}, which is {text.short(off, 2)} from the published figure"
        return _finding(conclusion, names, quantity, value, None, "exact", verdict, because)
    better = results.study.scores[quantity].better
    raw = results.quantity(results.arm(conclusion.arm), quantity)
    (scores,) = statistics.failures_as_worst([raw], better)
    failed = _failed_text(raw)
    mean = bootstrap.stratified_interval(scores, "mean")
    off, n = abs(mean.value - published), len(scores)
    if few := _too_few(n):
        return _finding(conclusion, names, quantity, mean.value, mean, n, "undecided", few + failed)
    outside = max(mean.low - (published + tolerance), (published - tolerance) - mean.high)
    if off <= tolerance and mean.half_width <= tolerance:
        verdict, because = "reproduced", f"the mean is {text.short(off, 2)} from the published figure"
    elif outside > 0:
        verdict = "not reproduced"
        because = f"the mean is {text.short(off, 2)} off and its whole interval lies outside the tolerance"
    else:
        verdict = "undecided"
        room = tolerance if off <= tolerance else off - tolerance
        width = "the interval is wider than the tolerance" if off <= tolerance else "the interval reaches the tolerance"
        needed = ceil(n * (mean.half_width / room) ** 2) if room > 0 and not isnan(mean.half_width) else None
        because = width + _would_decide(needed, n)
    return _finding(conclusion, names, quantity, mean.value, mean, n, verdict, because + failed)


def bound(results: Results, conclusion: Bound) -> Finding:
    """Judge that an arm's mean is at least, or at most, a number.

    Its whole 95 % interval is: reproduced. Its whole interval lies beyond: not reproduced. Else undecided. An exact
    quantity may be beyond by rounding. A failed seed counts as the score that speaks most against the claim.
    """
    quantity, names = quantity_of(results, conclusion), (conclusion.arm,)
    due, side = conclusion.bound, conclusion.side
    sign = 1 if side == "at least" else -1
    claimed = f"{side} {text.short(due, 6)}"
    verdict: VerdictName
    if is_exact(results, quantity):
        value = _exact(results, conclusion.arm, quantity)
        holds = sign * (value - due) >= -_ROUNDING * max(1.0, abs(due))
        verdict = "reproduced" if holds else "not reproduced"
        because = f"exactly {text.short(value, 6)}, which is {'' if holds else 'not '}{claimed}"
        return _finding(conclusion, names, quantity, value, None, "exact", verdict, because)
    raw = results.quantity(results.arm(conclusion.arm), quantity)
    (scores,) = statistics.failures_as_worst([raw], "higher" if sign > 0 else "lower")
    failed = _failed_text(raw)
    mean, n = bootstrap.stratified_interval(scores, "mean"), len(scores)
    if few := _too_few(n):
        return _finding(conclusion, names, quantity, mean.value, mean, n, "undecided", few + failed)
    worst, best = (mean.low, mean.high) if sign > 0 else (mean.high, mean.low)
    if sign * (worst - due) >= 0:
        verdict, because = "reproduced", f"the whole interval of the mean is {claimed}"
    elif sign * (best - due) < 0:
        verdict, because = "not reproduced", f"no part of the mean's interval is {claimed}"
    else:
        room = abs(mean.value - due)
        needed = ceil(n * (mean.half_width / room) ** 2) if room > 0 and not isnan(mean.half_width) else None
        verdict, because = "undecided", f"the mean's interval includes {text.short(due, 6)}" + _would_decide(needed, n)
    return _finding(conclusion, names, quantity, mean.value, mean, n, verdict, because + failed)


def best(results: Results, conclusion: Best) -> Finding:
    """Judge that the best of several arms is one that matches ``expected``.

    It has the best mean, and the 95 % interval of its paired difference from the best arm that does not match excludes
    0: reproduced. Another arm is best, and is separated in the same way from the best that matches: not reproduced.
    Else undecided.
    """
    quantity, better = quantity_of(results, conclusion), direction_of(results, conclusion)
    sign = 1 if better == "higher" else -1
    arms = results.matching(conclusion.among)
    exact = is_exact(results, quantity)
    raw = [
        np.array([_exact(results, arm.name, quantity)]) if exact else results.quantity(arm, quantity) for arm in arms
    ]
    means = [sign * float(scores.mean()) for scores in statistics.failures_as_worst(raw, better)]
    ranked = [arms[i] for i in sorted(range(len(arms)), key=lambda i: -means[i] if not isnan(means[i]) else np.inf)]
    expected = [matches(arm.name, [conclusion.expected]) for arm in ranked]
    rivals = [arm for arm, match in zip(ranked, expected, strict=True) if match != expected[0]]
    winner, won = ranked[0], expected[0]
    if not rivals:
        raise LabError(
            f"the conclusion {conclusion.statement!r} compares nothing: of {', '.join(conclusion.among)} "
            f"all arms match {conclusion.expected!r}, or none does. Widen `among` or mend `expected`"
        )
    names = (winner.name, rivals[0].name)
    verdict: VerdictName
    if exact:
        first, second = (_exact(results, name, quantity) for name in names)
        tie = abs(first - second) <= _ROUNDING * max(abs(first), abs(second))
        verdict = "undecided" if tie else "reproduced" if won else "not reproduced"
        because = f"{names[0]} has exactly {text.short(first)}, {names[1]} {text.short(second)}"
        return _finding(conclusion, names, quantity, first - second, None, "exact", verdict, because)
    first_scores, second_scores, failed = pair(results, names, quantity, better)
    gap = statistics.paired_difference(first_scores, second_scores)
    n = len(first_scores)
    if few := _too_few(n):
        return _finding(conclusion, names, quantity, gap.value, gap, n, "undecided", few + failed)
    best = f"{names[0]} has the best mean"
    if gap.excludes(0) and sign * gap.value > 0:
        verdict = "reproduced" if won else "not reproduced"
        because = f"{best}, separated from {names[1]}"
    else:
        verdict = "undecided"
        needed = statistics.seeds_needed(first_scores - second_scores)
        because = f"{best}, not separated from {names[1]}" + _would_decide(needed, n)
    return _finding(conclusion, names, quantity, gap.value, gap, n, verdict, because + failed)


def share(results: Results, conclusion: Share) -> Finding:
    """Judge that a share of the seeds reaches a threshold or lies beyond it, in the score's better direction.

    At least ``share`` of them do (upwards for an exact quantity): reproduced. Fewer, and Wilson's 95 % interval lies
    below ``share``: not reproduced. Else undecided.
    """
    quantity, names, wanted = quantity_of(results, conclusion), (conclusion.arm,), conclusion.share
    verdict: VerdictName
    if is_exact(results, quantity):
        value = _exact(results, conclusion.arm, quantity)
        reached = value >= conclusion.threshold
        verdict = "reproduced" if reached >= wanted else "not reproduced"
        because = f"exactly {text.short(value)}; the threshold is {text.short(conclusion.threshold)}"
        judged = _share_of(quantity, conclusion.threshold, upwards=True)
        return _finding(conclusion, names, quantity, float(reached), None, "exact", verdict, because, judged)
    scores = results.quantity(results.arm(conclusion.arm), quantity)
    upwards = results.study.scores[quantity].better == "higher"
    reach = (
        (scores >= conclusion.threshold) if upwards else (scores <= conclusion.threshold)
    )  # a failed seed never does
    share, n = statistics.wilson(int(reach.sum()), len(scores)), len(scores)
    side = "or more" if upwards else "or less"
    failed = int((~np.isfinite(scores)).sum())
    because = f"{int(reach.sum())} of {text.plural(n, 'seed')} reach {text.short(conclusion.threshold)} {side}"
    because += f"; {failed} failed" if failed else ""
    if few := _too_few(n):
        verdict, because = "undecided", few
    elif share.value >= wanted - _ROUNDING:
        verdict = "reproduced"
    else:
        verdict = "not reproduced" if share.high < wanted else "undecided"
    judged = _share_of(quantity, conclusion.threshold, upwards=upwards)
    return _finding(conclusion, names, quantity, share.value, share, n, verdict, because, judged)


def unfinished(results: Results, conclusion: Conclusion, arm: str) -> Finding:
    """Leave a conclusion undecided whose ``arm`` is still to come."""
    quantity = conclusion.quantity or next(iter(results.study.scores), "")
    because = f"arm {arm!r} is not finished"
    return _finding(conclusion, (arm,), quantity, nan, Interval(nan, nan, nan), 0, "undecided", because)


def pair(results: Results, names: tuple[str, str], quantity: str, better: Direction) -> tuple[Array, Array, str]:
    """Return two arms' scores on their shared seeds, failures as worst, and a remark on the failures."""
    arms = [results.arm(name) for name in names]
    raw = shared_scores(arms, lambda arm: results.quantity(arm, quantity))
    if not len(raw[0]):
        raise LabError(f"arms {names[0]!r} and {names[1]!r} share no seed, so they cannot be compared in pairs")
    first, second = statistics.failures_as_worst(raw, better)
    return first, second, _failed_text(np.concatenate(raw))


def _finding(
    conclusion: Conclusion,
    arms: tuple[str, ...],
    quantity: str,
    effect: float,
    interval: Interval | None,
    n: int | Literal["exact"],
    verdict: VerdictName,
    because: str,
    judged: str = "",
) -> Finding:
    published = conclusion.published if isinstance(conclusion, Level) else None
    published = conclusion.share if isinstance(conclusion, Share) else published
    published = conclusion.bound if isinstance(conclusion, Bound) else published
    side = conclusion.side if isinstance(conclusion, Bound) else "at least" if isinstance(conclusion, Share) else ""
    tolerance = conclusion.tolerance if isinstance(conclusion, Level) else None
    about = (conclusion.statement, conclusion.claim, conclusion.source, conclusion.kind)
    judged = judged or text.words(quantity)
    return Finding(*about, arms, quantity, judged, effect, interval, n, published, tolerance, verdict, because, side)


def _share_of(quantity: str, threshold: float, *, upwards: bool) -> str:
    return f"share of seeds with {text.words(quantity)} {'≥' if upwards else '≤'} {text.short(threshold)}"


def quantity_of(results: Results, conclusion: Conclusion) -> str:
    """Return the name of the quantity to judge, checked."""
    scores = results.study.scores
    exact = sorted({name for arm in results.arms for name in arm.exact})
    if conclusion.quantity is None:
        if not scores:
            raise LabError(
                f"the conclusion {conclusion.statement!r} names no quantity and the study has no score. "
                f"Give `quantity`: {', '.join(exact) or 'none is available'}"
            )
        return next(iter(scores))
    if conclusion.quantity not in scores and conclusion.quantity not in exact:
        raise LabError(
            f"the conclusion {conclusion.statement!r} asks for {conclusion.quantity!r}, which is neither a score nor "
            f"an exact quantity. {did_you_mean(conclusion.quantity, [*scores, *exact])}"
        )
    return conclusion.quantity


def is_exact(results: Results, quantity: str) -> bool:
    """Return whether the quantity is computed, so that no seed is needed to know it."""
    return quantity not in results.study.scores


def _exact(results: Results, arm: str, quantity: str) -> float:
    return float(results.quantity(results.arm(arm), quantity)[0])


def direction_of(results: Results, conclusion: Order | Best) -> Direction:
    """Return the better side of the quantity; raises ``LabError`` where nobody says which it is."""
    quantity = quantity_of(results, conclusion)
    if conclusion.direction is not None:
        return conclusion.direction
    if is_exact(results, quantity):
        raise LabError(
            f"the conclusion {conclusion.statement!r} compares the exact quantity {quantity!r}, which has no better "
            "side of its own. Add `direction: lower` or `direction: higher`"
        )
    return results.study.scores[quantity].better


def _too_few(n: int) -> str:
    return f"{text.plural(n, 'seed')} cannot decide; use at least {FEWEST}, better 20" if n < FEWEST else ""


def _failed_text(scores: Array) -> str:
    failed = int((~np.isfinite(scores)).sum())
    return f"; {text.plural(failed, 'failed seed')} counted as the worst score" if failed else ""


def _percent(alpha: float) -> str:
    return f"{text.short(100 * (1 - alpha), 4)} %"


def _would_decide(needed: int | None, n: int) -> str:
    return f"; about {text.plural(max(needed, n + 1), 'seed')} would decide" if needed is not None else ""
