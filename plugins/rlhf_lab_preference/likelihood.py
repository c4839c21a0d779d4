"""Direct preference optimisation: a reward model's likelihood, applied to the reward that a policy implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Final

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PreferenceObjective, RewardObjective, Slot
from rlhf_lab.types import Loss, Rankings, Scores
from rlhf_lab_preference.bradley_terry import BradleyTerry
from rlhf_lab_preference.implicit import log_ratios
from rlhf_lab_preference.plackett_luce import PlackettLuce

__all__ = ["DPO"]

_LABELS: Final = tuple(f.name for f in fields(Scores) if f.name != "scores")


class DPO(PreferenceObjective):
    """A reward model's likelihood of the preferences, its reward that for which the policy would be optimal.

    ``L = likelihood(r)``,  ``r = β (log π − log π_ref)``;  for pairs ``L = −log σ(r_w − r_l)``

    The policy that maximises E[r] − β KL(π ‖ π_ref) is π ∝ π_ref e^{r/β}; solved for r, the reward of a response is β
    log(π/π_ref) plus a number of the prompt, on which no likelihood of a comparison depends. So reward model and policy
    are learned in one step. Nothing ties down responses that no comparison mentions.

    "DPO" means several losses in use. The paper's is ``likelihood: bradley_terry`` on pairs, with log-probabilities
    summed over tokens; its appendix A.3 is ``likelihood: plackett_luce`` on rankings of K responses, the same class.
    Others have names of their own: ``dpo_norm`` divides by length, ``cdpo`` and ``robust_dpo`` know of wrong labels,
    ``dpop`` holds the chosen response up, ``f_dpo`` has another divergence than KL. Online and iterative DPO are this
    loss on responses of the policy itself.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,k]`` of valid responses, best first, and whatever labels the likelihood
    needs.

    Source: Rafailov et al. 2023, eq. 7; for rankings eq. 20.
    """

    name = "dpo"
    reference = "Rafailov et al. 2023, eq. 7"
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "half-beta-at-the-reference",
            "log-two-at-the-reference",
            "non-negative",
            "orders-sum-to-one",
            "population-optimum-is-the-logit",
        }
    )
    implements = "dpo"
    stacked = True
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    likelihood: Annotated[RewardObjective, Slot("reward_model", PlackettLuce())] = Field(
        default=BradleyTerry(), description="how rewards make preferences; plackett_luce for rankings"
    )

    def needs(self) -> frozenset[str]:
        return self.likelihood.needs() | {"ref_log_probs"}

    def most_candidates(self) -> int | None:
        return self.likelihood.most_candidates()

    def __call__(self, batch: Rankings) -> Loss:
        rewards = self.beta * log_ratios(batch)  # implied by the policy
        labels = {name: getattr(batch, name) for name in _LABELS}
        return self.likelihood(Scores(rewards, **labels))

    def initial_state(self) -> dict[str, Tensor]:
        return self.likelihood.initial_state()

    def next_state(self, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.likelihood.next_state(state, metrics)
