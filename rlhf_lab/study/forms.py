"""Published forms of one metric along another, fitted to each seed's curve: do they describe it, and carry on?

``d (a - b d)`` and ``d (a - b log d)`` are those of the true reward over d = sqrt(KL) under best-of-n sampling and
under reinforcement learning (Gao et al. 2022, "Scaling laws for reward model overoptimization", section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import e
from typing import Final

import numpy as np

from rlhf_lab.study import text
from rlhf_lab.study.bootstrap import Array, stratified_interval
from rlhf_lab.study.results import Results
from rlhf_lab.study.schema import Form
from rlhf_lab.study.verdicts import FEWEST, Finding, VerdictName

__all__ = ["Fit", "fit", "judge"]

_FEWEST_POINTS: Final = 5  # twice as many as a form has parameters, and one to spare


@dataclass(frozen=True)
class Fit:
    """A form's parameters, the share of squared deviations that it explains, and where y is largest.

    ``carried`` is the root mean square error on the second half of the range of d of a fit to the first half alone, in
    units of the largest y.
    """

    a: float
    b: float
    r2: float
    carried: float
    peak: float  # d at which y is largest; infinite where b is not positive


def fit(x: Array, y: Array, form: str) -> Fit:
    """Fit ``form`` to points by least squares; both forms are linear in a and b. NaN where points do not suffice.

    R^2 compares with the mean of y. Points at x = 0 say nothing, since every form is 0 there.
    """
    known = np.isfinite(x) & np.isfinite(y) & (x > 0)
    x, y = x[known], y[known]
    first = x <= x.max(initial=0.0) / 2
    nothing = Fit(np.nan, np.nan, np.nan, np.nan, np.nan)
    if len(x) < _FEWEST_POINTS or np.ptp(y) == 0:
        return nothing
    a, b = _solve(x, y, form)
    rest = y - _columns(x, form) @ (a, -b)
    r2 = 1 - float(rest @ rest) / float(np.square(y - y.mean()).sum())
    carried = np.nan
    if first.sum() >= _FEWEST_POINTS and not first.all():
        early = _solve(x[first], y[first], form)
        missed = y[~first] - _columns(x[~first], form) @ (early[0], -early[1])
        carried = float(np.sqrt(np.square(missed).mean()) / np.abs(y).max())
    return Fit(a, b, r2, carried, _peak(a, b, form))


def _columns(x: Array, form: str) -> Array:
    return np.stack([x, x * x if form == "d (a - b d)" else x * np.log(x)], axis=1)


def _solve(x: Array, y: Array, form: str) -> tuple[float, float]:
    (a, minus_b), *_ = np.linalg.lstsq(_columns(x, form), y, rcond=None)
    return float(a), float(-minus_b)


def _peak(a: float, b: float, form: str) -> float:
    """Return d where the form's derivative, a - 2 b d or a - b log d - b, is 0."""
    if b <= 0:
        return np.inf
    return a / (2 * b) if form == "d (a - b d)" else float(np.exp(min(a / b, 700.0)) / e)


def judge(results: Results, conclusion: Form) -> Finding:
    """Judge that a form describes the curve of each seed.

    The 95 % interval of the mean R^2 lies above ``r2``: reproduced. Below it: not reproduced. Else undecided.
    """
    arm = results.arm(conclusion.arm)
    y, x = arm.curve(conclusion.y), arm.curve(conclusion.x)
    fits = [fit(x[:, seed], y[:, seed], conclusion.form) for seed in range(y.shape[1])]
    shares = np.array([each.r2 for each in fits])
    known = np.isfinite(shares)
    n = int(known.sum())
    interval = stratified_interval(shares[known] if n else np.array([np.nan]), "mean")
    verdict: VerdictName = "undecided"
    if n >= FEWEST and interval.low >= conclusion.r2:
        verdict = "reproduced"
    elif n >= FEWEST and interval.high < conclusion.r2:
        verdict = "not reproduced"
    medians = (float(np.median([getattr(f, name) for f in fits])) if n else np.nan for name in ("a", "b", "peak"))
    a, b, peak = (text.short(value, 3) for value in medians)
    carried = [f.carried for f in fits if np.isfinite(f.carried)]
    because = f"in the median a = {a}, b = {b}, largest at d = {peak}"
    if carried:
        because += f"; fitted to the first half of d alone it misses the second by {text.short(np.median(carried), 2)}"
        because += " of the largest y"
    if n < FEWEST:
        because = f"{text.plural(n, 'seed')} with enough points cannot decide; use at least {FEWEST}"
    elif n < len(fits):
        because += f"; {text.plural(len(fits) - n, 'seed')} without enough points left out"
    judged = f"R\u00b2 of {conclusion.form} for {text.words(conclusion.y)} over {text.words(conclusion.x)}"
    about = (conclusion.statement, conclusion.claim, conclusion.source, conclusion.kind)
    names, r2 = (arm.name,), interval.value
    return Finding(
        *about, names, conclusion.y, judged, r2, interval, n, conclusion.r2, None, verdict, because, "at least"
    )
