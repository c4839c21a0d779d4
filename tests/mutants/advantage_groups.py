"""Broken comparisons of a response with the others to its prompt."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mutants.advantage_entry import mutant
from mutants.advantage_loops import GroupLoop
from rlhf_lab.types import clean


@mutant("N01", "rloo")
class OwnScoreIncluded(GroupLoop):
    name = "own_score_included"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.mean())


@mutant("N02", "rloo")
class ContiguousGroups(GroupLoop):
    name = "contiguous_groups"

    def same(self, ids: Tensor, row: int) -> Tensor:
        size = max(1, len(ids) // max(1, len(ids.unique())))
        block = torch.arange(len(ids)) // size
        return block == block[row]


@mutant("N04", "rloo")
class WholeBatchBaseline(GroupLoop):
    name = "whole_batch_baseline"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - (everyone.sum() - own) / (len(everyone) - 1)) if len(everyone) > 1 else 0.0


@mutant("one response keeps its raw score", "rloo")
class AloneKeepsScore(GroupLoop):
    name = "alone_keeps_score"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return super().compare(own, group, everyone) if len(group) > 1 else own


@mutant("score is a mean over steps", "rloo")
class MeanReward(GroupLoop):
    name = "mean_reward"

    def score(self, rewards: Tensor, valid: Tensor) -> Tensor:
        return clean(rewards, valid).sum(-1) / valid.sum(-1).clamp(min=1)


@mutant("advantage on the last step only", "rloo")
class LastStepOnly(GroupLoop):
    name = "last_step_only"

    def place(self, advantages: Tensor, valid: Tensor) -> Tensor:
        last = valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)
        return clean(advantages[:, None].expand(valid.shape), last)


@mutant("padding counted into the score", "grpo_mean")
class PaddingInScore(GroupLoop):
    name = "padding_in_score"

    def score(self, rewards: Tensor, valid: Tensor) -> Tensor:
        return rewards.nan_to_num().sum(-1)

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.mean())


@mutant("median for the mean", "grpo_mean")
class MedianBaseline(GroupLoop):
    name = "median_baseline"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.median())


@mutant("own score left out of the group's mean", "grpo_mean")
class OwnScoreLeftOut(GroupLoop):
    name = "own_score_left_out"


class Standardised(GroupLoop):
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-4, ge=0)

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.std(correction=self.ddof)

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        return float((own - group.mean()) / (self.deviation(group, everyone) + self.eps))


@mutant("N04", "grpo")
class BatchDeviation(Standardised):
    name = "batch_deviation"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return everyone.std(correction=self.ddof)


@mutant("N07", "grpo")
class NanAlone(Standardised):
    name = "nan_alone"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float((own - group.mean()) / (self.deviation(group, everyone) + self.eps))


@mutant("ddof ignored", "grpo")
class PopulationDeviation(Standardised):
    name = "population_deviation"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.std(correction=0)


@mutant("eps under the root", "grpo")
class EpsUnderRoot(Standardised):
    name = "eps_under_root"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        return float((own - group.mean()) / (self.deviation(group, everyone).square() + self.eps).sqrt())


@mutant("variance for deviation", "grpo")
class DividesByVariance(Standardised):
    name = "divides_by_variance"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.var(correction=self.ddof)


@mutant("leave-one-out mean with the deviation", "grpo")
class LeaveOneOutStandardised(Standardised):
    name = "leave_one_out_standardised"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        others = (group.sum() - own) / (len(group) - 1)
        return float((own - others) / (self.deviation(group, everyone) + self.eps))
