"""Estimators of KL(π ‖ π_ref) per step. Two uses, two questions, and few estimators answer both with yes.

As a (detached) reward an estimator must have the right expected *value*; as a loss it must have the right expected
*gradient*, and the one does not follow from the other. What holds is claimed, and is checked by enumeration:

- ``unbiased-value``: its expectation is KL(π ‖ π_ref), also over samples of an older policy;
- ``loss-gradient``: with samples of π itself and no ``old_log_probs``, its expected gradient is ∇KL(π ‖ π_ref);
- ``off-policy-loss-gradient``: the same with samples of π_old and ``old_log_probs`` given.

``old_log_probs`` says that the samples came from π_old: the estimate is then weighed by ρ = exp(log π − log π_old).
Given π's own (detached) log-probabilities ρ is 1 but has a gradient, which is what turns k1 and k3 into correct
losses.

All arguments have one shape; only ``log_probs`` carries gradient. There is no ``valid`` here: the caller cleans. A
sampled action with π_ref = 0 gives inf, as the divergence itself is infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.components import KLEstimator

__all__ = ["K1", "K2", "K3", "AbsoluteKL", "FullKL"]


class K1(KLEstimator):
    """The plain log-ratio: unbiased, of high variance, of either sign.

    ``k1 = log(π / π_ref)``,  with ``old_log_probs``: ``ρ k1``

    In the reward it is the standard penalty of RLHF. As an on-policy loss without ``old_log_probs`` its gradient is
    ∇log π, whose mean is zero: no regularisation at all. ``ρ k1`` has the exact gradient.

    Source: Schulman 2020, "Approximating KL divergence", estimator k1.
    """

    name = "k1"
    reference = 'Schulman 2020, "Approximating KL divergence"'
    claims = frozenset(
        {
            "unbiased-value",
            "off-policy-loss-gradient",
            "no-loss-gradient",
            "antisymmetric",
            "as-large-as-the-log-ratio",
            "policy-ratio-carries-gradient",
            "only-log-ratios-count",
            "weighed-by-the-policy-ratio",
            "gradient-is-derivative",
            "infinite-without-reference-support",
        }
    )
    implements = "k1"
    stacked = True

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return _weigh(log_probs - ref_log_probs.detach(), log_probs, old_log_probs)


class AbsoluteKL(KLEstimator):
    """The absolute log-ratio: never negative, but neither its value nor its gradient is that of the divergence.

    ``abs = |log(π / π_ref)|``,  with ``old_log_probs``: ``ρ abs``

    Its mean is at least KL(π ‖ π_ref). Known from RLHF code bases, where it is offered beside k1 to k3.

    Source: none; a practice.
    """

    name = "abs"
    claims = frozenset(
        {
            "value-at-least-the-divergence",
            "non-negative",
            "symmetric",
            "as-large-as-the-log-ratio",
            "policy-ratio-carries-gradient",
            "only-log-ratios-count",
            "weighed-by-the-policy-ratio",
            "gradient-is-derivative",
            "infinite-without-reference-support",
        }
    )
    implements = "abs"
    stacked = True

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return _weigh((log_probs - ref_log_probs.detach()).abs(), log_probs, old_log_probs)


class K2(KLEstimator):
    """Half the squared log-ratio: a biased value with the exact gradient.

    ``k2 = ½ log²(π / π_ref)``,  with ``old_log_probs``: ``ρ k2``, ρ detached

    Its gradient is k1 · ∇log π, that of k1 in the reward. For the same reason ρ carries no gradient: with one it would
    be the gradient of E[k2], which is not that of the divergence.

    Source: Schulman 2020, "Approximating KL divergence", estimator k2; gradient: Tang & Munos 2025.
    """

    name = "k2"
    reference = 'Schulman 2020, "Approximating KL divergence"'
    claims = frozenset(
        {
            "loss-gradient",
            "off-policy-loss-gradient",
            "non-negative",
            "symmetric",
            "flat-at-the-reference",
            "quadratic-in-the-log-ratio",
            "half-square-near-the-reference",
            "precise-near-the-reference",
            "policy-ratio-detached",
            "only-log-ratios-count",
            "weighed-by-the-policy-ratio",
            "gradient-is-derivative",
            "infinite-without-reference-support",
        }
    )
    implements = "k2"
    stacked = True

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return _weigh(0.5 * (log_probs - ref_log_probs.detach()).square(), log_probs.detach(), old_log_probs)


class K3(KLEstimator):
    """The log-ratio with a control variate: unbiased, never negative, of low variance near the reference.

    ``k3 = π_ref / π − 1 − log(π_ref / π)``,  with ``old_log_probs``: ``ρ k3``

    Unbiased where π_ref vanishes wherever π does. As an on-policy loss without ``old_log_probs`` its gradient is that
    of the other divergence, KL(π_ref ‖ π). ``ρ k3`` has the exact gradient. Written with expm1, so that it does not
    cancel near the reference; far from it π_ref / π may overflow, as the estimator is unbounded.

    Source: Schulman 2020, "Approximating KL divergence", estimator k3; ρ: DeepSeek-AI 2025 (V3.2), section 3.1.
    """

    name = "k3"
    reference = 'Schulman 2020, "Approximating KL divergence"'
    claims = frozenset(
        {
            "unbiased-value",
            "off-policy-loss-gradient",
            "forward-loss-gradient",
            "non-negative",
            "flat-at-the-reference",
            "half-square-near-the-reference",
            "precise-near-the-reference",
            "policy-ratio-carries-gradient",
            "only-log-ratios-count",
            "weighed-by-the-policy-ratio",
            "gradient-is-derivative",
            "infinite-without-reference-support",
        }
    )
    implements = "k3"
    stacked = True

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        inverse = ref_log_probs.detach() - log_probs
        return _weigh(torch.expm1(inverse) - inverse, log_probs, old_log_probs)


class FullKL(KLEstimator):
    """The exact divergence of each step's action distribution: no sampling, no variance.

    ``full[t] = Σ_a π(a|s[t]) log(π(a|s[t]) / π_ref(a|s[t]))``

    Takes log-probabilities ``[*b,t,actions]`` and returns ``[*b,t]``. An action of probability 0 (log-probability
    −inf, or so low that it underflows) contributes 0 to value and gradient. ``old_log_probs`` changes nothing: the sum
    over actions is the same, whoever chose the action. Over several steps it is exact for the visited states, which it
    takes as given.

    Source: Kullback & Leibler 1951.
    """

    name = "full"
    reference = "Kullback & Leibler 1951"
    claims = frozenset(
        {
            "unbiased-value",
            "loss-gradient",
            "off-policy-loss-gradient",
            "non-negative",
            "flat-at-the-reference",
            "old-policy-does-not-matter",
            "impossible-actions-count-nothing",
            "infinite-without-reference-support",
        }
    )
    implements = "full"
    stacked = True
    distributions = True

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        impossible = log_probs.exp() == 0
        log_probs = log_probs.masked_fill(impossible, 0)
        ref_log_probs = ref_log_probs.detach().masked_fill(impossible, 0)
        return (log_probs.exp() * (log_probs - ref_log_probs)).sum(-1)


def _weigh(estimate: Tensor, log_probs: Tensor, old_log_probs: Tensor | None) -> Tensor:
    return estimate if old_log_probs is None else (log_probs - old_log_probs.detach()).exp() * estimate
