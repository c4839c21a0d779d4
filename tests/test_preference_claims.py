"""What a preference loss may not claim: claims that are false for it, and claims of what it does not read."""

from __future__ import annotations

import pytest

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.conformance import Verdict, verify
from rlhf_lab_preference import CPO, DPO, LDDPO, NCA, Hinge

OF_LOG_PROBS = (
    "chosen-up-rejected-down",
    "convex-in-log-probs",
    "depends-on-the-margin-only",
    "equal-and-opposite-pulls",
    "gradient-of-its-value",
    "only-the-best-matters",
    "responses-do-not-mix",
)


def judged(loss: type[PreferenceObjective], *claims: str, seed: int = 0) -> list[Verdict]:
    """Return the verdicts on a loss that claims no more and no less than this."""
    claiming = type(loss.__name__, (loss,), {"__module__": loss.__module__, "claims": frozenset(claims)})
    return verify(claiming, examples=40, seed=seed, only=claims)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [Hinge, NCA])
def test_losses_that_fall_below_dpo_are_told_so(loss: type[PreferenceObjective], seed: int) -> None:
    """Hinge is 0 beyond β h = 1; nca grows like ½ β |h| where both responses are on the wrong side, dpo like β |h|."""
    (verdict,) = judged(loss, "at-least-dpo", seed=seed)
    assert verdict.status == "failed" and "= −log σ(β h) or more" in verdict.message


def test_what_does_not_depend_on_log_probs_may_not_claim_how_it_does() -> None:
    verdicts = judged(LDDPO, *OF_LOG_PROBS)
    assert {verdict.property.id for verdict in verdicts if verdict.status == "failed"} == set(OF_LOG_PROBS)
    assert all("got no dL/dlog_probs" in verdict.message for verdict in verdicts)


@pytest.mark.parametrize(
    "claim", ["optimum-is-the-smoothed-logit", "fair-coin-at-the-reference", "unbiased-under-flips"]
)
@pytest.mark.parametrize("loss", [DPO, Hinge, CPO])  # hinge is flat at β h = log 9, the optimum for e = 0.1
def test_without_a_rate_of_wrong_labels_there_is_no_claim_on_it(loss: type[PreferenceObjective], claim: str) -> None:
    (verdict,) = judged(loss, claim)
    assert verdict.status == "failed"
    assert "no parameter label_smoothing" in verdict.message
