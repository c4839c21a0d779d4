"""What KL estimators in tests are built from."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.components import KLEstimator

__all__ = ["DetachedWeight", "Estimator", "Unweighed", "k3", "weighed"]


def weighed(estimate: Tensor, policy: Tensor, old: Tensor | None) -> Tensor:
    return estimate if old is None else (policy - old.detach()).exp() * estimate


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    gap = reference.detach() - policy
    return gap.exp() - 1 - gap


class Estimator(KLEstimator):
    """An estimator without memory; ``one`` is the estimate of a sample of the policy itself."""

    stacked = True

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return weighed(self.one(log_probs, ref_log_probs.detach()), log_probs, old_log_probs)


class DetachedWeight(Estimator):
    """The same with a weight that carries no gradient."""

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return weighed(self.one(log_probs, ref_log_probs.detach()), log_probs.detach(), old_log_probs)


class Unweighed(Estimator):
    """The same without a weight."""

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return self.one(log_probs, ref_log_probs.detach())
