"""What all actors share: acting, evaluating samples, scoring whole responses, and the frozen reference policy.

Requirements this file meets:
- every parameter has a leading run axis and every operation keeps it, so that runs never mix;
- an actor is a few pure functions of (weights, observations), so that current and reference weights share one code;
- what stands at invalid steps may be anything: it is replaced before it meets arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_lab.components import Policy
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates, Scored
from rlhf_lab.training.protocols import Evaluation, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import clean
from rlhf_lab_policies.distributions import Categorical, DiagonalGaussian
from rlhf_lab_policies.scoring import Responses, scored, total
from rlhf_lab_policies.stacked import fill

__all__ = ["Distribution", "StackedActor", "StackedPolicy", "Weights"]

Distribution = Categorical | DiagonalGaussian
Weights = Mapping[str, Tensor]

_REFERENCE: Final = "reference_"


class StackedPolicy(Policy):
    """Base of the policies here: an optional critic, and what follows for the batches."""

    provides = frozenset(
        {"log_probs", "target_log_probs", "ref_log_probs", "entropy", "score_norms"}
        | {"token_log_probs", "token_ref_log_probs", "token_valid", "token_kl"}  # of rankings
    )
    critic: bool = Field(default=True, description="also learn state values V(s)")

    def gives(self) -> frozenset[str]:
        """Return the batch fields that the policy can fill; state values only with a critic."""
        return self.provides | {"values", "next_values"} if self.critic else self.provides


class StackedActor(nn.Module, ABC):
    """A policy with weights ``[runs, ...]`` by name; the names of a critic's own weights begin with ``critic``.

    ``spaces`` are those of the environment that it was built for.
    ``block``: where products of matrices are summed over rows, samples are evaluated in multiples of so many rows.
    """

    block: ClassVar[int] = 1
    legal: Tensor | None  # [states, actions] of a finite world in which some actions are illegal

    def __init__(self, weights: Weights, spaces: Spaces) -> None:
        super().__init__()
        self._states = spaces.states
        self.register_buffer("legal", spaces.legal, persistent=False)
        self._known: Tensor | None = None  # what the reference says in every state
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value))

    @abstractmethod
    def _distribution(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> Distribution:
        """Return the action distributions ``[runs, n]``."""

    @abstractmethod
    def _values(self, weights: Weights, observations: Tensor) -> Tensor | None:
        """Return the critic's values ``[runs, n]``, or None without a critic."""

    @abstractmethod
    def _score_norms(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return ‖∇_θ log π(a|s)‖² over the policy's weights θ, ``[runs, n]``."""

    def _both(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> tuple[Distribution, Tensor | None]:
        """Return distributions and values; override where they share work."""
        return self._distribution(weights, observations, mask), self._values(weights, observations)

    @property
    def weights(self) -> Weights:
        """The current weights by name."""
        return cast("Weights", self._parameters)

    @property
    def runs(self) -> int:
        """How many runs the weights are of."""
        return len(next(iter(self.weights.values())))

    @property
    def reference(self) -> Weights | None:
        """The frozen weights by name, or None before ``keep_reference``."""
        if not self._buffers or f"{_REFERENCE}{next(iter(self._parameters))}" not in self._buffers:
            return None
        return {name: cast("Tensor", self._buffers[_REFERENCE + name]) for name in self._parameters}

    def keep_reference(self) -> None:
        """Freeze a copy of the current weights, as buffers, so that checkpoints carry it."""
        self._known = None
        for name, value in self.weights.items():
            self.register_buffer(_REFERENCE + name, value.detach().clone())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, and the reference where ``state_dict`` has one."""
        if any(name.startswith(_REFERENCE) for name in state_dict):
            self.keep_reference()
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change dtype or device of everything, and forget what was computed with the old one."""
        self._known = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def act(self, observations: Tensor, uniforms: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return actions and log-probabilities ``[runs, n]``; continuous actions, uniforms: ``[runs, n, size]``."""
        distribution = self._distribution(self.weights, observations, mask)
        actions = distribution.sample(uniforms)
        return actions, distribution.log_prob(actions)

    def action_log_probs(self, observations: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``[runs, n, actions]`` log-probabilities; an illegal action's probability is exactly 0.

        Raises ``TypeError`` where actions are continuous.
        """
        log_probs = self._distribution(self.weights, observations, mask).action_log_probs
        if log_probs is None:
            raise TypeError("action_log_probs: continuous actions have no finite set of probabilities")
        return log_probs

    def values(self, observations: Tensor) -> Tensor | None:
        """Return the critic's values ``[runs, n]``, or None without a critic."""
        return self._values(self.weights, observations)

    def evaluate(self, samples: Samples) -> Evaluation:
        """Return what the current weights say of ``samples``, with gradients, and what the reference says, without."""
        steps = samples.trajectories.valid.shape
        observations, actions, mask = self._inputs(samples)
        current, values = self._both(self.weights, observations, mask)
        kept = self.reference
        reference = None if kept is None else self._distribution(kept, observations, mask)
        count = steps[1:].numel()

        def by_row(x: Tensor | None) -> Any:
            if x is None:
                return None
            return (x if x.shape[1] == count else x[:, :count]).reshape(*steps, *x.shape[2:])

        evaluation = Evaluation(by_row(current.log_prob(actions)), by_row(values), by_row(current.entropy()))
        if reference is None:
            return evaluation
        return replace(
            evaluation,
            ref_log_probs=by_row(reference.log_prob(actions)),
            action_log_probs=by_row(current.action_log_probs),
            ref_action_log_probs=by_row(reference.action_log_probs),
        )

    def score(self, candidates: Candidates, fields: frozenset[str] = frozenset()) -> Scored:
        """Return log π(y|x) = Σ_t log π(y_t | x, y_<t) over the counted tokens of each response, with gradients.

        ``token_kl`` is Σ_t KL(π_ref ‖ π) at the prefixes of the response. What the reference says has no gradient and
        is None before ``keep_reference``. Raises ``LabError`` for candidates that are not token sequences.
        """
        responses = Responses(candidates, self._states, self.runs)
        current = self._asked(self.weights, responses).action_log_probs
        if current is None:
            raise LabError("score: this policy's actions are continuous, so that it gives tokens no probability")
        return scored(responses, current, self._reference_for(responses), fields)

    def rewards(self, candidates: Candidates) -> Tensor:
        """Return r(x, y) = Σ_t z(y_t | x, y_<t), the sums of the counted tokens' preferences, ``[runs, rows, k]``.

        z are the preferences before the softmax: the same family of functions, read as rewards. Raises ``LabError``
        where actions are continuous, or the candidates are not token sequences.
        """
        responses = Responses(candidates, self._states, self.runs)
        logits = self._asked(self.weights, responses).logits
        if logits is None:
            raise LabError("rewards: this policy's actions are continuous, so that it has no preference for each")
        return total(responses.of_tokens(logits))

    def _reference_for(self, responses: Responses) -> Tensor | None:
        """Return the reference's log-probabilities in the states asked for; where these are all, found only once."""
        if self.reference is None:
            return None
        if responses.states is not None:
            return self._asked(self.reference, responses).action_log_probs
        if self._known is None:
            self._known = self._asked(self.reference, responses).action_log_probs
        return self._known

    def _asked(self, weights: Weights, responses: Responses) -> Distribution:
        if responses.states is None:
            return self._every_state(weights)
        return self._lawful(weights, fill(responses.states, self.block))

    def _every_state(self, weights: Weights) -> Distribution:
        """Return the distributions in all states of a finite world, in order; override where it takes no asking."""
        states = torch.arange(self._states or 0, device=next(iter(weights.values())).device)
        return self._lawful(weights, states.expand(self.runs, -1))

    def _lawful(self, weights: Weights, states: Tensor) -> Distribution:
        """Return the distributions over the legal actions in ``states [runs, n]`` of a finite world."""
        return self._distribution(weights, states, None if self.legal is None else self.legal[states])

    def score_norms(self, samples: Samples) -> Tensor:
        """Return ‖∇_θ log π(a|s)‖² over the policy's weights θ for every step ``[runs, rows, t]``, without gradient."""
        steps = samples.trajectories.valid.shape
        norms = self._score_norms(*self._inputs(samples)).detach()
        return norms[:, : steps[1:].numel()].reshape(steps)

    def _inputs(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return observations, actions and mask as ``[runs, n, ...]``, harmless at invalid steps.

        n is ``rows * t``, filled up with invalid steps to a multiple of ``block``.
        """
        valid = samples.trajectories.valid.flatten(1)
        sound = valid.shape[1] % self.block == 0 and bool(valid.all())
        valid = fill(valid, self.block)

        def prepare(name: str) -> Tensor:
            x = fill(samples.inputs[name].flatten(1, 2), self.block)
            return x if sound else clean(x, valid.view(*valid.shape, *[1] * (x.ndim - 2)))

        mask = prepare("mask") if "mask" in samples.inputs else None
        if mask is not None and not sound:
            mask = mask | ~valid[..., None]
        return prepare("observations"), prepare("actions"), mask
