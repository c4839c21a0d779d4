"""Laws of role reward_model, which every sensible loss on scores obeys, and all that one may claim.

Throughout s are the scores of a row's candidates, best first (r_w and r_l of a pair), L is the row's loss and g its
gradient dL/ds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties import score_claims, score_labels, score_pairs, score_rankings, score_ties
from rlhf_lab.conformance.properties.losses import answered, some_gradient
from rlhf_lab.conformance.properties.rows import better, empty_rows_do_not_count
from rlhf_lab.conformance.properties.score_answers import rankings, with_scores
from rlhf_lab.conformance.property import Property, expect_equal, expect_true
from rlhf_lab.conformance.score_cases import EXTREME
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["PROPERTIES"]


def _finite(subject: Subject, case: Scores) -> None:
    signs = torch.where(torch.arange(case.scores.shape[-1]) % 2 == 0, EXTREME, -EXTREME).to(case.scores)
    for far in (signs, -signs):
        wide = with_scores(case, far.expand_as(case.scores))
        for batch in (wide, map_fields(wide, lambda _, __, x: x.float() if x.is_floating_point() else x)):
            for symbol, x in subject(batch).items():
                kind = str(batch.scores.dtype).removeprefix("torch.")
                due = f"finite numbers at scores of ±{EXTREME:g}"
                expect_true(bool(x.isfinite().all()), f"{symbol} not finite in {kind}", due)


def _agrees_with_labels(subject: Subject, case: Scores) -> None:
    level = with_scores(case, torch.zeros_like(case.scores))
    slope, above = subject(level)["dL/dscores"], better(subject, case)
    # [rows, k, k]: of two candidates the better one is not pulled up less
    high = torch.where(above, slope[:, :, None] - slope[:, None, :], 0)
    due = {"g[better] − g[worse]": high.clamp(max=0)}
    expect_equal(
        {"g[better] − g[worse]": high}, due, note="or less, at equal scores: descent must not invert the label"
    )


def _law(id_: str, statement: str, reference: str, check: Callable[[Subject, Any], None], **options: Any) -> Property:
    return Property(id_, "reward_model", statement, reference, False, answered(check), **options)


PROPERTIES: list[Property] = [
    some_gradient("reward_model"),
    empty_rows_do_not_count("reward_model"),
    _law(
        "finite-at-extreme-scores",
        "values and gradients are finite at scores of ±8000, in float64 and float32",
        "DeepSpeedExamples issues 423 and 501",
        _finite,
        cases=rankings,
        share=0.25,
    ),
    _law(
        "labels-are-followed",
        "at equal scores, descent never raises a worse candidate above a better one",
        "Christiano et al. 2017, section 2.2.3",
        _agrees_with_labels,
        share=0.5,
    ),
    *score_claims.CLAIMS,
    *score_pairs.CLAIMS,
    *score_rankings.CLAIMS,
    *score_labels.CLAIMS,
    *score_ties.CLAIMS,
]
