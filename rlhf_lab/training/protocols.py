"""The four calls between a training loop and the world: ``collect``, ``evaluate``, ``score`` and the components.

Axes: ``runs`` (one per seed, always first), ``rows`` (parallel environments or prompts x samples), ``t`` (steps).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from rlhf_lab.components import Environment, Policy
from rlhf_lab.random import Streams

if TYPE_CHECKING:
    from rlhf_lab.data.ranking import Ranking
    from rlhf_lab.training.candidates import Candidates, Scored
    from rlhf_lab.training.exhibits import Exhibit
    from rlhf_lab.training.samples import Samples
    from rlhf_lab.worlds.protocol import ExactWorld

__all__ = [
    "Actor",
    "BuiltEnvironment",
    "Evaluation",
    "ExhibitingEnvironment",
    "KnownEnvironment",
    "Learner",
    "PaidEnvironment",
    "RankedEnvironment",
    "RankingActor",
    "ReadingEnvironment",
    "Setup",
    "Size",
    "Spaces",
]


@dataclass(frozen=True)
class Size:
    """How much to collect per row: ``steps`` (a window that may cut episodes) or whole ``episodes``."""

    count: int
    unit: Literal["steps", "episodes"] = "steps"


@dataclass(frozen=True)
class Spaces:
    """What a policy must know of an environment.

    Finite worlds: observations are state numbers, int64 ``[..., ]`` in ``[0, states)``. Others: float ``[...,
    *observation]``. Discrete actions: int64 in ``[0, actions)``. Continuous ones: float ``[..., action_size]``, and
    ``actions`` is 0.
    """

    actions: int
    states: int | None = None
    observation: tuple[int, ...] = ()
    features: Tensor | None = None  # [states, d] of a finite world; None = one-hot
    # for linear action preferences: [states, actions, d], or [m, d] with a row per pair; None = features x actions
    action_features: Tensor | None = None
    action_rows: Tensor | None = None  # [states, actions] int64: the row of action_features that each pair has
    action_size: int = 0
    masked: bool = False  # samples.inputs["mask"] tells the legal actions, True = legal
    legal: Tensor | None = None  # [states, actions] the same of a finite world; all where nobody acts. None = all
    # of a world of token sequences, where action = token and state = prompt * prefixes + prefix:
    prefixes: int = 0  # states per prompt; 0 = no such world
    tokens: Tensor | None = None  # [states, t] int64: the tokens read so far, the prompt's own first; -1 behind them


@dataclass(frozen=True)
class Evaluation:
    """What the actor says of samples under its current weights, each ``[runs, rows, t]``; gradients flow."""

    log_probs: Tensor
    values: Tensor | None = None
    entropy: Tensor | None = None
    ref_log_probs: Tensor | None = None
    # [runs, rows, t, actions], whole distributions where discrete and where there is a reference to compare with
    action_log_probs: Tensor | None = None
    ref_action_log_probs: Tensor | None = None


class Actor(Protocol):
    """A policy with weights: an ``nn.Module`` whose parameters all have a leading run axis, so that runs never mix.

    One whose policy is the softmax of a table of weights, one logit per state and action, may say so by an attribute
    ``logit_table = True``: its exact gradients are then had in closed form. One with buffers that have a run axis as
    well names them in an attribute ``run_buffers``.
    """

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def act(self, observations: Tensor, uniforms: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return actions and their log-probabilities, ``[runs, n]`` each, without gradient."""
        ...

    def action_log_probs(self, observations: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``[runs, n, actions]`` log-probabilities; an illegal action's probability is exactly 0."""
        ...

    def values(self, observations: Tensor) -> Tensor | None:
        """Return ``[runs, n]`` critic values, or None where the policy has no critic."""
        ...

    def evaluate(self, samples: Samples) -> Evaluation: ...
    def keep_reference(self) -> None:
        """Freeze a copy of the current weights as reference; ``evaluate`` then fills ``ref_log_probs``."""
        ...

    def score_norms(self, samples: Samples) -> Tensor:
        """Return the squared norm of grad log pi(a|s) over the policy's weights, ``[runs, rows, t]``, detached."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any: ...


@runtime_checkable
class RankingActor(Actor, Protocol):
    """An actor that can be asked about whole responses, by its log-probabilities or as a reward model."""

    def score(self, candidates: Candidates, fields: frozenset[str] = frozenset()) -> Scored:
        """Return the responses' log-probabilities, gradients flow; the reference's too once there is one.

        ``fields`` names what else of ``Scored`` is asked for.
        """
        ...

    def rewards(self, candidates: Candidates) -> Tensor:
        """Return ``[runs, rows, k]``, gradients flow: the responses' scores where these weights are a reward model."""
        ...


@runtime_checkable
class BuiltEnvironment(Protocol):
    """An environment with state: ``runs x envs`` episodes in progress."""

    spaces: Spaces

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories ``[runs, envs, t]`` with ``log_probs``, with a critic also its values."""
        ...

    def exact(self) -> ExactWorld | None:
        """Return the world's truth (leading run axis where runs differ), or None where it is not computable."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class PaidEnvironment(Protocol):
    """A built environment that tells what it pays in training, which need not be what policies are judged by."""

    def paid(self) -> ExactWorld:
        """Return the world of what ``collect`` pays: that of ``exact``, perhaps with other rewards."""
        ...


@runtime_checkable
class ExhibitingEnvironment(Protocol):
    """A built environment that shows what a policy does in a few chosen places."""

    def exhibits(self, policy: Tensor) -> Sequence[Exhibit]:
        """Return what to look at of one run's policy ``[states, actions]``; where worlds differ, the first run's."""
        ...


@runtime_checkable
class ReadingEnvironment(BuiltEnvironment, Protocol):
    """An environment that can be asked about rankings in words, such as those of a file."""

    def encode(self, rankings: Sequence[Ranking]) -> Candidates:
        """Return the prompts and responses of rankings in words as candidates ``[1, rows, k]``, without labels.

        Raises ``LabError`` with a row's place for what it cannot read.
        """
        ...


@runtime_checkable
class RankedEnvironment(ReadingEnvironment, Protocol):
    """An environment whose episodes are responses to prompts, so that they can be ranked."""

    def candidates(self, samples: Samples) -> Candidates:
        """Return whole episodes of one prompt side by side, ``[runs, prompts, k]``, with their scores as ``targets``.

        They are in the order in which they were collected; rows with equal ``group_ids`` share a prompt.
        """
        ...

    def adopt(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over what earlier stages have learned, such as the reward that is paid."""
        ...


class KnownEnvironment(RankedEnvironment, Protocol):
    """A ranked environment of which every response is known; its exact world is a ``SequenceWorld``."""

    @property
    def beta(self) -> float:
        """The price of the KL to the reference in the exact objective."""
        ...

    @property
    def true_rewards(self) -> Tensor:
        """The reward that policies are judged by, ``[runs, x, y]`` float64."""
        ...

    @property
    def paid_rewards(self) -> Tensor:
        """The reward that ``collect`` pays, ``[runs, x, y]`` float64."""
        ...

    def all_responses(self) -> Candidates:
        """Return every response to every prompt: a row per prompt, ``[runs, x, y]``."""
        ...


@dataclass(frozen=True)
class Setup:
    """What the host hands a trainer."""

    environment: Environment
    policy: Policy
    components: Mapping[str, Any]  # by role, only the given ones
    streams: Streams
    parameters: Mapping[str, Tensor] = field(default_factory=dict)  # of an earlier stage, by parameter name

    @property
    def runs(self) -> int:
        return self.streams.runs


class Learner(Protocol):
    """A training run of all seeds of one arm, one iteration at a time."""

    @property
    def actor(self) -> Actor: ...
    @property
    def environment(self) -> BuiltEnvironment: ...
    @property
    def iteration(self) -> int:
        """Iterations done."""
        ...

    @property
    def alive(self) -> Tensor:
        """``[runs]`` bool; False for a run that has diverged and is frozen."""
        ...

    def rest(self, resting: Tensor) -> None:
        """Leave the weights and counters of these runs ``[runs]`` as they are from now on: their budget is spent."""
        ...

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Do one iteration and return its metrics, ``[runs]`` each; ``steps`` and ``episodes`` are cumulative counts.

        ``progress`` in [0, 1) is the part of the budget that is spent, for schedules; ``[runs]`` where runs spend it at
        different speeds.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next iteration depends on, as tensors, so that a resumed run is the same run."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
