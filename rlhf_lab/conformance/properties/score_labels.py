"""What a reward-model loss may claim of labels that are numbers: probabilities and targets."""

from __future__ import annotations

from typing import Final

import torch

from rlhf_lab.conformance.inputs import take_steps, with_fields
from rlhf_lab.conformance.properties.score_answers import bradley_terry, claim, difference, given, pairs, with_scores
from rlhf_lab.conformance.property import Property, Violation, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["CLAIMS"]

_CHANCES: Final = (0.25, 0.5, 0.875)
_SYMBOLS: Final = ("L", "dL/dscores")


def _label(subject: Subject) -> str:
    """Return the field that labels with probabilities."""
    for name in ("preference_prob", "targets"):
        if name in subject.component.needs():
            return name
    raise Violation("neither preference_prob nor targets read", "a component that reads one of them")


def _labelled(subject: Subject, case: Scores, chance: float) -> Scores:
    """Return the batch with one label for all."""
    name = _label(subject)
    return with_fields(case, {name: torch.full_like(given(case, name), chance)})


def _linear(subject: Subject, case: Scores) -> None:
    """Compare a label between 0 and 1 with both of them, weighed by it."""
    for chance in _CHANCES:
        no, yes, between = (subject(_labelled(subject, case, label)) for label in (0.0, 1.0, chance))
        due = {symbol: (1 - chance) * no[symbol] + chance * yes[symbol] for symbol in _SYMBOLS}
        expect_equal(between, due, note=f"= {1 - chance:g} of L for label 0 + {chance:g} of L for label 1")


def _certain(subject: Subject, case: Scores) -> None:
    sure = _labelled(subject, case, 1.0)
    expect_equal(subject(sure), bradley_terry(difference(case)), note="by bradley_terry, for p = 1")


def _logit_minimises(subject: Subject, case: Scores) -> None:
    for chance in _CHANCES:
        case = _labelled(subject, case, chance)
        best = torch.full_like(case.scores, chance).logit()
        if _label(subject) == "preference_prob":
            best[:, 1:] = 0
        slope = subject(with_scores(case, best))["dL/dscores"]
        expect_equal({"dL/dscores": slope}, {"dL/dscores": torch.zeros_like(slope)}, note=f"at the logit of {chance:g}")


def _targets_minimise(subject: Subject, case: Scores) -> None:
    """Put the scores at the targets, plus a number for every row where only differences matter."""
    level = 1.5 if "depends-on-differences-only" in subject.component.claims else 0.0
    slope = subject(with_scores(case, given(case, "targets") + level))["dL/dscores"]
    expect_equal({"dL/dscores": slope}, {"dL/dscores": torch.zeros_like(slope)}, note="at scores equal to the targets")


def _zero_at_targets(subject: Subject, case: Scores) -> None:
    losses = subject(with_scores(case, given(case, "targets")))["L"]
    expect_equal({"L": losses}, {"L": torch.zeros_like(losses)}, note="at scores equal to the targets")


def _mean_minimises(subject: Subject, case: Scores) -> None:
    for n in (1, 3):
        other = given(case, "targets") + 1.5
        mean = (n * given(case, "targets") + other) / (n + 1)
        here = with_scores(case, mean)
        pull = n * subject(here)["dL/dscores"] + subject(with_fields(here, {"targets": other}))["dL/dscores"]
        note = f"at the mean of {n} targets y and one y' = {other.tolist()}"
        expect_equal({"Σ dL/ds": pull}, {"Σ dL/ds": torch.zeros_like(pull)}, note=note)


def _apart(subject: Subject, case: Scores) -> None:
    k = case.scores.shape[-1]
    alone = [subject(take_steps(case, [i])) for i in range(k)]
    losses = torch.stack([each["L"] for each in alone]).mean(0)
    slope = torch.cat([each["dL/dscores"] for each in alone], dim=-1) / k
    expect_equal(subject(case), {"L": losses, "dL/dscores": slope}, note="= the mean over candidates alone")


_SOFT: Final = "Christiano et al. 2017, section 2.2.3"
_TARGETS: Final = frozenset({"targets"})
_CHANCE: Final = frozenset({"preference_prob"})

CLAIMS: list[Property] = [
    claim(
        "linear-in-the-label",
        "a label between 0 and 1 gets the mean of what 0 and 1 get, weighed by it",
        _SOFT,
        _linear,
        applies=lambda component: None if component.needs() & (_TARGETS | _CHANCE) else "it reads no probability",
    ),
    claim(
        "certain-label-is-bradley-terry",
        "with p = 1, L = −log σ(r_w − r_l)",
        _SOFT,
        _certain,
        cases=pairs,
        applies=about("preference_prob"),
    ),
    claim(
        "logit-of-the-label-minimises",
        "g = 0 where the difference of scores (a score itself, for a target) is log(p / (1 − p)) of the label p",
        _SOFT,
        _logit_minimises,
        applies=lambda component: None if component.needs() & (_TARGETS | _CHANCE) else "it reads no probability",
    ),
    claim(
        "targets-minimise",
        "g = 0 at scores equal to the targets, plus any number where only differences matter",
        "Cao et al. 2007 (ListNet)",
        _targets_minimise,
        applies=about("targets"),
    ),
    claim(
        "zero-at-targets",
        "L = 0 at scores equal to the targets",
        "Hastie et al. 2009, section 2.4",
        _zero_at_targets,
        applies=about("targets"),
    ),
    claim(
        "mean-target-minimises",
        "the pulls of several targets cancel where the score is their mean: the optimum is the expected target",
        "Hastie et al. 2009, eq. 2.13",
        _mean_minimises,
        applies=about("targets"),
    ),
    claim(
        "candidates-apart",
        "L is the mean over candidates of what each gets alone: none matters to another",
        "contract of rlhf_lab",
        _apart,
    ),
]
