"""Aggregations that count the wrong steps or sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.aggregation_bases import all_of, lengths, once, shares
from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights

__all__ = [
    "DividedAgain",
    "EmptyRowsCount",
    "EndBelongsToNext",
    "EndsOnly",
    "LastStepCounts",
    "LongByOne",
    "MeanOfMeans",
    "NeverDivided",
    "NotANumberWhenEmpty",
    "NotAveraged",
    "OnlyFinished",
    "OnlyFinishedSums",
    "OverPadding",
    "OverSteps",
    "PaddedLength",
    "RootOfLength",
    "RowMean",
    "RowSum",
    "SequenceMeansSummed",
    "SumDividedByLength",
    "TrainsPadding",
    "WithoutEnds",
]


class MeanOfMeans(Aggregation):
    name = "mean_of_means"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid / all_of(valid), once(valid))


class NeverDivided(Aggregation):
    name = "never_divided"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid / all_of(valid), torch.zeros_like(ends, dtype=torch.float64))


class DividedAgain(Aggregation):
    name = "divided_again"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), 4 * valid.double())


class OverPadding(Aggregation):
    name = "over_padding"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), torch.ones_like(valid, dtype=torch.float64))


class TrainsPadding(Aggregation):
    name = "trains_padding"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        ones = torch.ones_like(valid, dtype=torch.float64)
        return Weights(ones, ones)


class WithoutEnds(Aggregation):
    name = "without_ends"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        kept = (valid & ~ends).double()
        return Weights(kept, kept)


class EndsOnly(Aggregation):
    name = "ends_only"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(ends.double(), ends.double())


class RowMean(Aggregation):
    name = "row_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = valid / valid.sum(-1, keepdim=True).clamp(min=1)
        return Weights(own.double(), own.double())


class RowSum(Aggregation):
    name = "row_sum"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = valid / valid.sum(-1, keepdim=True).clamp(min=1)
        return Weights(valid.double(), own.double())


class EmptyRowsCount(Aggregation):
    name = "empty_rows_count"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own, empty = shares(valid, ends), ~valid.any(-1, keepdim=True)
        return Weights(own, own + empty.double() / max(1, valid.shape[-1]))


class NotANumberWhenEmpty(Aggregation):
    name = "not_a_number_when_empty"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = shares(valid, ends) * (valid.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True))
        return Weights(own, own)


class SequenceMeansSummed(Aggregation):
    name = "sequence_means_summed"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = shares(valid, ends)
        return Weights(own / all_of(own), once(valid))


class PaddedLength(Aggregation):
    name = "padded_length"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        labels = ends.cumsum(-1) - ends.long()
        return Weights(valid / lengths(torch.ones_like(valid), labels), shares(valid, ends))


class EndBelongsToNext(Aggregation):
    name = "end_belongs_to_next"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = valid / lengths(valid, ends.cumsum(-1))
        return Weights(own, own)


class OnlyFinished(Aggregation):
    name = "only_finished"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(shares(valid, ends), ends.double())


class OnlyFinishedSums(Aggregation):
    name = "only_finished_sums"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), ends.double())


class LongByOne(Aggregation):
    name = "long_by_one"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = valid / (1 / shares(valid, ends).clamp(min=1e-9) + 1)
        return Weights(own, shares(valid, ends))


class RootOfLength(Aggregation):
    name = "root_of_length"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        own = shares(valid, ends).sqrt()
        return Weights(own, own)


class SumDividedByLength(Aggregation):
    name = "sum_divided_by_length"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(shares(valid, ends), shares(valid, ends))


class NotAveraged(Aggregation):
    name = "not_averaged"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), once(valid))


class OverSteps(Aggregation):
    name = "over_steps"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), valid.double())


class LastStepCounts(Aggregation):
    name = "last_step_counts"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        last = valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)
        return Weights(valid.double(), (valid & (ends | last)).double() + last)
