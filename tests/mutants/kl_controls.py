"""Right KL estimators in another form."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.kl_bases import DetachedWeight, Estimator, Unweighed, k3

__all__ = ["AbsoluteByCases", "K2AsRewardGradient", "K2OnPolicy", "K3Plus", "PlainK3"]


class K2AsRewardGradient(DetachedWeight):
    """Right: the detached log-ratio times the log-probability has the value that k2 lacks and the gradient of k2."""

    name = "k2_as_reward_gradient"
    claims = frozenset({"loss-gradient", "off-policy-loss-gradient", "policy-ratio-detached"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        ratio = (policy - reference).detach()
        return ratio * (policy - policy.detach()) + ratio**2 / 2


class K2OnPolicy(Unweighed):
    """Right on-policy, which is all that it claims."""

    name = "k2_on_policy"
    claims = frozenset({"loss-gradient", "non-negative", "symmetric", "flat-at-the-reference"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) ** 2 / 2


class K3Plus(Estimator):
    """Right: the value of k3 with the gradient of k2."""

    name = "k3_plus"
    claims = frozenset({"unbiased-value", "loss-gradient", "non-negative", "flat-at-the-reference"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        straight = (policy - reference) ** 2 / 2
        return k3(policy, reference).detach() + straight - straight.detach()


class PlainK3(Estimator):
    """Right: k3 as it is usually written, which cancels near the reference."""

    name = "plain_k3"
    implements = "k3"
    claims = frozenset({"unbiased-value", "off-policy-loss-gradient", "forward-loss-gradient", "non-negative"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return k3(policy, reference)


class AbsoluteByCases(Estimator):
    """Right: another slope at the kink."""

    name = "absolute_by_cases"
    implements = "abs"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return torch.where(policy >= reference, policy - reference, reference - policy)
