"""How wrong an advantage estimator and the gradient made from it are: exact, by enumeration of every outcome.

The truth is that of the infinite horizon, A^π and ∇J, also where the enumeration stops before the episodes do. What a
critic bootstraps at the cut is then part of the estimator, and its error is part of what is measured. With ``beyond``
"value" a cut episode ends instead, its last step paid r + γ V(s') with the exact value of the policy that acts: an
estimator without a critic has no bias from the cut, and a critic's error, and chance, count within the window only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lab.calling import Aggregator, Estimator, Normalizer, Objective, apply, restrict
from rlhf_lab.types import Advantages, PolicyBatch, clean
from rlhf_lab.worlds.outcomes import (
    Beyond,
    cells,
    enumerated,
    estimate,
    log_probs,
    probabilities,
    require,
    step_weights,
    sum_by,
    visited_cells,
)
from rlhf_lab.worlds.protocol import Enumeration, ExactWorld
from rlhf_lab.worlds.scores import Jacobian, score_function

__all__ = ["EstimatorError", "GradientError", "estimator_error", "gradient_error"]


@dataclass(frozen=True, eq=False)
class EstimatorError:
    """Conditional bias and variance of an advantage estimator at each time, state and action, ``[t,s,a]``.

    ``cell_bias`` is E[Â_t | s_t=s, a_t=a] - A^π(s,a), ``cell_variance`` is Var[Â_t | s_t=s, a_t=a] and ``visits`` is
    P(s_t=s, a_t=a); the first two are 0 where visits are 0. The scalars average over visits: each step counts the same,
    so longer episodes count more.
    """

    cell_bias: Tensor
    cell_variance: Tensor
    visits: Tensor

    @property
    def bias(self) -> float:
        """The root of ``squared_bias``."""
        return math.sqrt(self.squared_bias)

    @property
    def squared_bias(self) -> float:
        return self._mean(self.cell_bias.square())

    @property
    def variance(self) -> float:
        return self._mean(self.cell_variance)

    @property
    def mse(self) -> float:
        """The mean of (Â_t - A^π(s_t,a_t))², which is ``squared_bias + variance``."""
        return self.squared_bias + self.variance

    def _mean(self, cells: Tensor) -> float:
        return float((self.visits * cells).sum() / self.visits.sum())


@dataclass(frozen=True, eq=False)
class GradientError:
    """The gradient that an estimator and an objective follow, against the true one, in the direction of ascent ``[p]``.

    ``expected`` is E[g], the mean over outcomes of minus the loss's gradient; ``variance_trace`` is E‖g‖² - ‖E g‖², the
    summed variance of its p numbers.
    """

    expected: Tensor
    true: Tensor
    variance_trace: float

    @property
    def bias(self) -> float:
        """‖E[g] - ∇J‖."""
        return float((self.expected - self.true).norm())

    @property
    def relative_bias(self) -> float:
        """‖E[g] - ∇J‖ / ‖∇J‖; NaN or infinite where ∇J = 0."""
        return float((self.expected - self.true).norm() / self.true.norm())

    @property
    def noise(self) -> float:
        """The ``variance_trace`` by ‖E[g]‖², free of any scale; infinite where E[g] = 0, NaN where g is always 0.

        Source: the simple noise scale of McCandlish et al. 2018, arXiv 1812.06162.
        """
        return float(self.variance_trace / self.expected.square().sum())

    @property
    def cosine(self) -> float:
        """The cosine of the angle between E[g] and ∇J; NaN where one of them is 0."""
        return float(self.expected @ self.true / (self.expected.norm() * self.true.norm()))


def estimator_error(
    world: ExactWorld,
    policy: Tensor,
    estimator: Estimator,
    critic: Tensor | None,
    horizon: int,
    samples: int = 1,
    behaviour: Tensor | None = None,
    *,
    ref_policy: Tensor | None = None,
    jacobian: Jacobian | None = None,
    start: Tensor | None = None,
    beyond: Beyond = "critic",
) -> EstimatorError:
    """Return the exact error of an advantage estimator of ``policy [s,a]`` under a ``critic [s]`` that may be wrong.

    Outcomes are enumerated under ``behaviour`` (None = the policy itself), ``samples`` episodes from one start state at
    a time (a group estimator needs at least 2), and the visits are the behaviour's; ``start [s]`` are the first states'
    probabilities, None the world's own; ``beyond`` says what stands for the steps after the horizon (see above). An
    estimator whose advantages carry the importance weight of their own action, as V-trace's do, estimates ρ A^π: judge
    it by ``gradient_error``.
    """
    policy = probabilities(policy)
    outcomes = enumerated(world, policy if behaviour is None else behaviour, horizon, samples, start, beyond)
    cell = cells(outcomes, policy.shape)
    scores = None
    if "score_norms" in estimator.needs():
        scores = score_function(policy, jacobian, [visited_cells(outcomes, policy.shape)])
    outcomes, advantages = estimate(outcomes, policy, estimator, critic, ref_policy, scores)
    table = (horizon, *policy.shape)
    found = clean(advantages.advantages, outcomes.trajectories.valid)
    weight = step_weights(outcomes)

    visits = sum_by(cell, weight, table)
    mean = sum_by(cell, weight * found, table) / visits.clamp(min=torch.finfo(visits.dtype).tiny)
    spread = sum_by(cell, weight * (found - mean.flatten()[cell]).square(), table)
    visited = visits > 0
    return EstimatorError(
        cell_bias=(mean - world.advantages(policy)).where(visited, 0),
        cell_variance=(spread / visits).where(visited, 0),
        visits=visits,
    )


def gradient_error(
    world: ExactWorld,
    policy: Tensor,
    estimator: Estimator,
    objective: Objective,
    critic: Tensor | None,
    horizon: int,
    *,
    samples: int = 1,
    behaviour: Tensor | None = None,
    old_policy: Tensor | None = None,
    ref_policy: Tensor | None = None,
    normalizer: Normalizer | None = None,
    aggregation: Aggregator | None = None,
    jacobian: Jacobian | None = None,
    start: Tensor | None = None,
    beyond: Beyond = "critic",
) -> GradientError:
    """Return the exact expected gradient of an objective on estimated advantages, and the true gradient beside it.

    Data come from ``behaviour`` (None = the policy); ``old_policy`` is the proximal one (None = the behaviour).
    ``jacobian [s,a,p]`` is ∂ log π(a|s) / ∂θ, or a function of states and actions ``[m]`` that gives it as ``[m,p]``
    and is asked for what is visited only; None means tabular softmax logits, p = s · a. ``start [s]`` are the first
    states' probabilities, None the world's own; ``beyond`` says what stands for the steps after the horizon (see
    above). An outcome is one batch of the objective: its loss sums over the steps of an episode and averages over its
    ``samples``, unless an ``aggregation`` says otherwise, which may change the scale as well: then compare directions.

    The truth is Σ_{t<horizon} E[A^π(s_t,a_t) ∇log π(a_t|s_t)] under the policy itself: the world's
    ``policy_gradient(discounted=False)`` where episodes end within the horizon, hence ∇J where γ = 1 too.
    Time and memory grow with outcomes · (steps of an outcome)², with a ``jacobian`` the time with outcomes · steps · p.
    """
    policy = probabilities(policy)
    outcomes = enumerated(world, policy if behaviour is None else behaviour, horizon, samples, start, beyond)
    own = outcomes if behaviour is None else enumerated(world, policy, horizon, start=start)
    scores = score_function(policy, jacobian, [visited_cells(outcomes, policy.shape), visited_cells(own, policy.shape)])
    visits = sum_by(cells(own, policy.shape, timeless=True), step_weights(own), policy.shape)

    outcomes, advantages = estimate(outcomes, policy, estimator, critic, ref_policy, scores)
    if normalizer is not None:
        advantages = apply(normalizer, restrict(outcomes.trajectories, normalizer), advantages)
    pushes = -_slopes(outcomes, advantages, policy, old_policy, ref_policy, objective, aggregation)

    cell = cells(outcomes, policy.shape, timeless=True).flatten(1)  # [n,samples*t]
    expected = scores.total(sum_by(cell, outcomes.probabilities[:, None] * pushes, policy.shape))
    square = float(outcomes.probabilities @ scores.squares(cell, pushes))
    true = scores.total((visits * world.advantages(policy)).where(visits > 0, 0))
    return GradientError(expected, true, max(square - float(expected.square().sum()), 0.0))


def _slopes(
    outcomes: Enumeration,
    advantages: Advantages,
    policy: Tensor,
    old_policy: Tensor | None,
    ref_policy: Tensor | None,
    objective: Objective,
    aggregation: Aggregator | None,
) -> Tensor:
    """Return ∂ loss / ∂ log π(a_t|s_t) of each outcome ``[n,samples*t]``."""
    steps = outcomes.trajectories
    live = log_probs(policy, outcomes).requires_grad_()
    state = {name: x.expand(len(live), *x.shape) for name, x in objective.initial_state().items()}
    batch = PolicyBatch(
        log_probs=live,
        advantages=advantages.advantages,
        valid=steps.valid,
        ends=steps.terminated | steps.truncated,
        old_log_probs=steps.log_probs if old_policy is None else log_probs(old_policy, outcomes),
        ref_log_probs=None if ref_policy is None else log_probs(ref_policy, outcomes),
        behaviour_log_probs=steps.log_probs,
        group_ids=steps.group_ids,
        state=state or None,
    )
    require(objective, batch)
    loss = apply(objective, restrict(batch, objective))
    counted = batch.valid if loss.weights is None else batch.valid & (loss.weights != 0)
    if aggregation is None:
        weights, total = counted.to(live.dtype), torch.tensor(float(counted.shape[1]), device=counted.device)
    else:
        answer = apply(aggregation, counted, batch.ends)
        weights, total = answer.weights, answer.total.flatten(1).sum(1)[:, None, None].clamp(min=1e-300)
    if loss.weights is not None:
        weights = weights * loss.weights
    (slopes,) = torch.autograd.grad((weights / total * clean(loss.values, batch.valid)).sum(), live)
    return slopes.flatten(1)
