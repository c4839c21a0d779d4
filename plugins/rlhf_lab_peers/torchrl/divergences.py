"""TorchRL's divergences: the penalty of its losses for language models, that of its PPO, and who steers it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Controller, KLEstimator
from rlhf_lab.types import Refused
from rlhf_lab_peers.limits import refuse_empty
from rlhf_lab_peers.torchrl.losses import Actor, Told, peer

__all__ = ["K3", "BetaController", "KLPenalty", "penalty"]


class K3(KLEstimator):
    """The penalty on the distance to a reference model of TorchRL's losses for language models: k3 of each token.

    Calls ``GRPOLoss`` with ``kl_to_ref_coeff=1`` on one token at a time, as its answer is a mean. It has no importance
    weight: ``old_log_probs`` are refused.

    Source: torchrl/objectives/llm/grpo.py; Schulman 2020, estimator k3.
    """

    name = "k3@torchrl"
    reference = "TorchRL, GRPOLoss; Schulman 2020, estimator k3"
    implements = "k3"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        refuse_empty(log_probs)
        if old_log_probs is not None:
            raise Refused("the penalty has no importance weight")
        pairs = zip(log_probs.reshape(-1, 1, 1), ref_log_probs.detach().reshape(-1, 1, 1), strict=True)  # [1,1] each
        found = [penalty(policy, reference, torch.ones(1, 1, dtype=torch.bool)) for policy, reference in pairs]
        return torch.stack(found).view(log_probs.shape)


class KLPenalty(KLEstimator):
    """The penalty of TorchRL's PPO with a KL term: KL(π_ref ‖ π) of whole distributions, the old policy's first.

    Calls ``KLPENPPOLoss`` with advantages of 0 and ``beta=1``, whose loss is then the penalty. PPO's eq. 8 asks for
    this order of the two; as an estimate of KL(π ‖ π_ref) it is another number.

    Source: torchrl/objectives/ppo.py; Schulman et al. 2017, eq. 8.
    """

    name = "kl_penalty@torchrl"
    reference = "TorchRL, KLPENPPOLoss; Schulman et al. 2017, eq. 8"
    distributions = True

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        refuse_empty(log_probs)
        new, old = (torch.distributions.Categorical(logits=x) for x in (log_probs, ref_log_probs.detach()))
        first = new.logits[..., 0].detach()  # of the action that was taken, 0
        loss = _penalised(new, old, beta=torch.ones((), dtype=log_probs.dtype), dtarg=0.01)
        answer: Tensor = loss(_data(first))["loss_objective"]
        return answer


class BetaController(Controller):
    """The coefficient of TorchRL's PPO with a KL term: raised and lowered by factors, as in PPO's paper.

    Calls ``KLPENPPOLoss`` on a step whose divergence is the observed number, and reads its ``beta`` afterwards.

    Source: torchrl/objectives/ppo.py; Schulman et al. 2017, section 4.
    """

    name = "adaptive_kl@torchrl"
    reference = "TorchRL, KLPENPPOLoss; Schulman et al. 2017, section 4"
    implements = "adaptive_kl"
    conventions = {"target": "dtarg", "tolerance": 1.5, "factor": 2.0}

    dtarg: float = Field(default=0.01, gt=0, description="divergence to be held, in nats")

    def model_post_init(self, context: Any) -> None:
        _observable()

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        refuse_empty(observed)
        found = []
        for beta, divergence in zip(coefficient.detach().flatten(), observed.detach().flatten(), strict=True):
            step = _observable()(divergence.view(1))
            loss = _penalised(step, step, beta=beta, dtarg=self.dtarg)
            loss(_data(torch.zeros_like(divergence.view(1))))
            found.append(loss.beta)
        return torch.stack(found).view(coefficient.shape)


class _Remembering(Actor):
    """An actor that also tells the distribution from which the data was drawn."""

    old: Any

    def build_dist_from_params(self, tensordict: Any) -> Any:
        return self.old


def _penalised(new: Any, old: Any, beta: Tensor, dtarg: float) -> Any:
    """Return the loss of a policy with the distribution ``new`` on data that was drawn from ``old``."""
    loss = _penalised_loss()
    loss.actor_network.distribution, loss.actor_network.old = new, old
    loss.beta, loss.dtarg = beta.clone(), dtarg
    return loss


@cache
def _penalised_loss() -> Any:
    actor = _Remembering(None)
    loss = peer().KLPENPPOLoss(actor, entropy_bonus=False, reduction="none", functional=False)
    loss.in_keys = []  # it would look for a network inside the stand-in
    return loss


def _data(log_probs: Tensor) -> Any:
    """Return data for a loss whose ratio is 1 and whose advantages are 0."""
    fields = {
        "advantage": torch.zeros_like(log_probs).unsqueeze(-1),
        "sample_log_prob": log_probs,
        "action_log_prob": log_probs,
        "action": torch.zeros_like(log_probs),
    }
    return peer().TensorDict(fields, log_probs.shape)


def penalty(log_probs: Tensor, ref_log_probs: Tensor, valid: Tensor) -> Tensor:
    """Return the penalty of a batch ``[rows, t]`` of tokens, one number."""
    loss = _penalty_loss()
    loss.actor_network.distribution = Told(log_probs, valid)
    data = {
        "advantage": torch.zeros_like(ref_log_probs).unsqueeze(-1),
        ("log_probs", "full"): log_probs.detach(),
        ("tokens", "full"): torch.zeros_like(ref_log_probs),
        ("next", "ref_log_probs", "full"): ref_log_probs,
    }
    found: Tensor = loss(peer().TensorDict(data, log_probs.shape)).loss_kl_to_ref
    return found


@cache
def _penalty_loss() -> Any:
    return peer().GRPOLoss(Actor(None), entropy_bonus=False, aggregation="none", kl_to_ref_coeff=1.0)


@cache
def _observable() -> Any:
    """Return a kind of distribution whose divergence from another is told."""

    class Observed(torch.distributions.Distribution):
        """A distribution at a known divergence."""

        arg_constraints = {}

        def __init__(self, divergence: Tensor) -> None:
            super().__init__(divergence.shape, validate_args=False)
            self.divergence = divergence

        def log_prob(self, value: Tensor) -> Tensor:
            return torch.zeros_like(self.divergence)

    def tell(old: Observed, new: Observed) -> Tensor:
        return new.divergence

    register: Any = torch.distributions.kl.register_kl
    register(Observed, Observed)(tell)
    peer()
    return Observed
