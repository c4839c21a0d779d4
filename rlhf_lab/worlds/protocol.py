"""What a world must tell for the truth to be known: exact values, gradients, and every episode with its probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from rlhf_lab.types import Trajectories, clean
from rlhf_lab.worlds.branches import Branches

__all__ = ["Ending", "EndingWorld", "Enumeration", "ExactWorld", "WorldError", "open_actions"]


class WorldError(ValueError):
    """A world, a policy or a question does not make sense; the message says what was found and what is due."""


@dataclass(frozen=True, eq=False)
class Enumeration:
    """Every outcome of acting up to a horizon, each with its probability.

    One episode per outcome: ``trajectories [n,t]``, ``states [n,t+1]``, ``actions [n,t]``, ``probabilities [n]``. With
    ``samples`` > 1 an outcome is that many independent episodes from one common start state (responses to one prompt):
    ``[n,samples,t]``, ``[n,samples,t+1]``, ``[n,samples,t]`` and the joint ``probabilities [n]``, with equal
    ``group_ids`` within an outcome.

    ``log_probs`` are those of the policy that acted. After its end an episode repeats its terminal state, not valid. A
    step at the horizon that does not terminate is marked truncated, so that every episode's last valid step has a flag.
    """

    trajectories: Trajectories
    states: Tensor  # int64
    actions: Tensor  # int64, 0 where not valid
    probabilities: Tensor  # float64, sum 1

    def with_values(self, critic: Tensor) -> Enumeration:
        """Return the same outcomes with ``values`` and ``next_values`` read from a critic's table ``[s]``.

        Terminal states are worth 0 whatever the table says. At a truncation ``next_values`` is the critic's value of
        the state reached there.
        """
        if critic.ndim != 1 or len(critic) <= int(self.states.max()):
            raise WorldError(f"critic: expected one value per state, found shape {list(critic.shape)}")
        steps = self.trajectories
        at_state = critic.to(steps.rewards.dtype)[self.states]
        values = clean(at_state[..., :-1], steps.valid)
        next_values = clean(at_state[..., 1:], steps.valid & ~steps.terminated)
        return replace(self, trajectories=replace(steps, values=values, next_values=next_values))


@runtime_checkable
class ExactWorld(Protocol):
    """A finite world whose truth is computed, not sampled. float64; a policy is a table of probabilities ``[*b,s,a]``.

    Leading axes ``*b`` are runs: of policies, of worlds that differ from run to run, or of both.
    """

    @property
    def gamma(self) -> float: ...

    @property
    def start(self) -> Tensor:
        """The start distribution ``[s]``, 0 at terminal states."""
        ...

    @property
    def terminal(self) -> Tensor:
        """Which states end an episode, bool ``[s]``."""
        ...

    @property
    def legal(self) -> Tensor | None:
        """Which actions are legal, bool ``[s,a]``; None where all are."""
        ...

    @property
    def branches(self) -> Branches:
        """What may follow each state and action, from which episodes are drawn."""
        ...

    def of_run(self, run: int) -> Self:
        """Return the world of one run, counted along the leading axes; the world itself where it has none."""
        ...

    def uniform_policy(self) -> Tensor:
        """Return ``[s,a]``: every legal action equally probable."""
        ...

    def state_values(self, policy: Tensor) -> Tensor:
        """Return V^π ``[*b,s]``; 0 at terminal states."""
        ...

    def action_values(self, policy: Tensor) -> Tensor:
        """Return Q^π ``[*b,s,a]``; -inf for illegal actions, 0 at terminal states."""
        ...

    def advantages(self, policy: Tensor) -> Tensor:
        """Return A^π = Q^π - V^π ``[*b,s,a]``; 0 for illegal actions and at terminal states."""
        ...

    def expected_return(self, policy: Tensor) -> Tensor:
        """Return J(π) ``[*b]``, the value of the start distribution."""
        ...

    def optimal_values(self) -> Tensor:
        """Return V* ``[*b,s]``."""
        ...

    def optimal_action_values(self) -> Tensor:
        """Return Q* ``[*b,s,a]``; -inf for illegal actions, 0 at terminal states."""
        ...

    def optimal_return(self) -> Tensor:
        """Return the largest J ``[*b]``."""
        ...

    def occupancy(self, policy: Tensor, discounted: bool = True) -> Tensor:
        """Return d(s) = E Σ_t γ^t 1[s_t = s] ``[*b,s]``, without γ^t where not ``discounted``; 0 at terminal states."""
        ...

    def policy_gradient(self, policy: Tensor, discounted: bool = True) -> Tensor:
        """Return w(s,a) = d(s) π(a|s) A^π(s,a) ``[*b,s,a]``, the policy gradient before any parametrisation.

        ∇J = Σ_{s,a} w(s,a) ∇log π(a|s) for every parametrisation; for tabular softmax logits, w is ∇J itself. Without
        ``discounted`` visits lack the factor γ^t: the direction that most implementations follow, not ∇J where γ < 1.
        """
        ...

    def enumerate(self, policy: Tensor, horizon: int, samples: int = 1, start: Tensor | None = None) -> Enumeration:
        """Return every outcome of at most ``horizon`` steps under one ``policy [s,a]``.

        ``start [s]`` are the first states' probabilities; None: those of the world.
        """
        ...


class Ending(Protocol):
    """How episodes end, by the name of the end; the leading axes ``*b`` are runs."""

    @property
    def probability(self) -> Mapping[str, Tensor]:
        """The probability of each end ``[*b]``."""
        ...

    @property
    def steps(self) -> Mapping[str, Tensor]:
        """The mean number of steps of the episodes that end so ``[*b]``; NaN where none does."""
        ...


@runtime_checkable
class EndingWorld(Protocol):
    """A world that tells how its episodes end, by mate or by stalemate say."""

    def ending(self, policy: Tensor) -> Ending:
        """Return how episodes end under ``policy [*b,s,a]``."""
        ...


def open_actions(world: ExactWorld) -> Tensor | None:
    """Return the mask ``[s,a]`` to act with, None where all actions are legal.

    At a terminal state, where nobody acts, every action is open, so that no distribution is empty.
    """
    return None if world.legal is None else world.legal | world.terminal[:, None]
