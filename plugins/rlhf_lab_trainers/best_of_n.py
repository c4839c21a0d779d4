"""Choosing instead of learning: the exact distribution of the best of n responses, for growing n."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, cast

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Trainer
from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import KnownEnvironment, Setup
from rlhf_lab.training.step import as_state, from_state, make_actor, make_environment
from rlhf_lab.worlds.best_of_n import best_of_n, kl_bound, win_rate
from rlhf_lab.worlds.sequences import SequenceWorld

__all__ = ["BestOfN", "BestOfNLearner"]

_LEAST: Final = -700.0  # log of a probability that float64 still tells from 0
_MOST: Final = 1e300  # of so many responses the best one of all is among them, unless float64 hardly tells it from 0


class BestOfN(Trainer):
    """Answer with the best of n responses of the first policy, as the paid reward ranks them: π_n = F^n - (F⁻)^n.

    Nothing is learned and nothing sampled: iteration i sets the policy to the exact distribution of the best of
    n = growth^i responses; where n is no whole number, it is the formula's value between two. Needs a policy that can
    be every distribution, ``tabular_autoregressive``. ``steps`` count iterations and ``episodes`` are n. At n = 1e300,
    where nothing changes any more and floats end, n stays.

    Metrics: ``log_n``; ``kl_slack`` = log n - (n - 1) / n - KL(π_n || π) and ``win_slack`` = n / (n + 1) less the
    probability that π_n beats π, both averaged over prompts: the known laws are bounds, and equations where no two
    responses are equally good and every one is rare.
    """

    name = "best_of_n"
    reference = "Stiennon et al. 2020, section 4.3; Gao et al. 2022 (2210.10760), section 3.1"
    uses: ClassVar[Mapping[str, bool]] = {}

    growth: float = Field(default=1.25, gt=1, description="factor by which n grows in each iteration, from 1")

    def build(self, setup: Setup) -> BestOfNLearner:
        """Return the loop, ready for its first iteration."""
        return BestOfNLearner(self, setup)


class BestOfNLearner:
    """All seeds of one arm; no random number is drawn."""

    def __init__(self, options: BestOfN, setup: Setup) -> None:
        self.options = options
        self.environment: Any = make_environment(setup, 1)
        self.actor: Any = make_actor(setup, self.environment.spaces)
        world = self.environment.exact()
        if not isinstance(world, SequenceWorld):
            raise LabError(
                f"environment {setup.environment.name!r}: best_of_n needs a world of token strings, whose responses "
                "are all known; use environment sequences"
            )
        if [*self.actor.state_dict()] != ["logits"]:
            raise LabError(
                f"policy {setup.policy.name!r}: best_of_n sets every probability on its own, which needs one logit per "
                "prefix and token; use tabular_autoregressive without a critic"
            )
        self.world = world
        self.rewards = cast("KnownEnvironment", self.environment).paid_rewards
        states = torch.arange(len(world.terminal)).expand(setup.runs, -1)
        with torch.no_grad():
            self.base = self.actor.action_log_probs(states).double().exp()
            self.base_log_probs = world.response_log_probs(self.base)
        self.alive = torch.ones(setup.runs, dtype=torch.bool)
        self.iteration = 0

    def rest(self, resting: Tensor) -> None:
        """Go on: all runs are equally far."""

    @torch.no_grad()
    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Let n grow once."""
        self.iteration += 1
        growth = self.options.growth
        n = growth**self.iteration if self.iteration * math.log(growth) < math.log(_MOST) else _MOST
        base = self.base_log_probs.exp()
        probabilities = best_of_n(base, self.rewards, n)
        chosen = probabilities.log().clamp(min=_LEAST)
        # every distribution is the optimum of its own log-ratio at a price of 1
        ratio = chosen - self.base_log_probs
        self.actor.logits.copy_(replace(self.world, reward=ratio).optimum(self.base, 1.0).log_policy)
        won = n / (n + 1) - win_rate(probabilities, base, self.rewards)
        gone = kl_bound(n) - (probabilities * ratio).sum(-1)
        slack = {
            "kl_slack": (self.world.prompt_probs * gone).sum(-1),
            "win_slack": (self.world.prompt_probs * won).sum(-1),
        }
        counts = {"log_n": math.log(n), "steps": self.iteration, "episodes": n}
        return slack | {name: torch.full_like(slack["kl_slack"], x) for name, x in counts.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on."""
        return {**as_state("actor", self.actor.state_dict()), "iteration": torch.tensor(self.iteration)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.actor.load_state_dict(from_state("actor", state))
        self.iteration = int(state["iteration"])
