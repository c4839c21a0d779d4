"""Broken aggregations: denominators of micro-batches, lengths, sequences and padding that are counted wrongly.

Codes are those of the list of real bugs. A batch is ``[rows, t]`` or ``[runs, rows, t]``, so that sums over the last
two axes are those of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from mutants.mutant import Mutant
from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights

__all__ = ["CONTROLS", "MUTANTS"]


def lengths(valid: Tensor, labels: Tensor) -> Tensor:
    """Return how many valid steps of its row have the same label as a step, at least 1."""
    together = (labels[..., None] == labels[..., None, :]) & valid[..., None, :]
    return together.sum(-1).clamp(min=1).double()


def shares(valid: Tensor, ends: Tensor) -> Tensor:
    """Return 1 / length of a step's sequence, 0 where not valid."""
    return valid / lengths(valid, ends.cumsum(-1) - ends.long())


def all_of(x: Tensor) -> Tensor:
    """Return the sum over the micro-batch, of a shape that divides it."""
    return x.double().sum((-2, -1), keepdim=True).clamp(min=1e-300)


def once(x: Tensor, value: Tensor | float = 1.0) -> Tensor:
    """Return a number once per micro-batch, 0 elsewhere."""
    at_first = torch.zeros_like(x, dtype=torch.float64)
    at_first[..., :1, :1] = value
    return at_first


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


class LongestRow(Aggregation):
    name = "longest_row"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        longest = valid.sum(-1).amax(-1)[..., None, None].clamp(min=1) if valid.numel() else 1
        return Weights(valid.double(), self.length * longest * shares(valid, ends))


class LengthUnread(Aggregation):
    name = "length_unread"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), shares(valid, ends))


class LengthMultiplies(Aggregation):
    name = "length_multiplies"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(self.length * valid.double(), shares(valid, ends))


class ConstantOverSteps(Aggregation):
    name = "constant_over_steps"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), self.length * valid.double())


class ConstantNotAveraged(Aggregation):
    name = "constant_not_averaged"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), self.length * once(valid))


class CappedLength(Aggregation):
    name = "capped_length"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(
            valid.double(), shares(valid, ends) * (1 / shares(valid, ends).clamp(0.01)).clamp(max=self.length)
        )


class LaterStepsWeighLess(Aggregation):
    name = "later_steps_weigh_less"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = valid * 0.5 ** valid.cumsum(-1).double()
        return Weights(weights, weights)


class FirstStepsOnly(Aggregation):
    name = "first_steps_only"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        starts = torch.cat([torch.ones_like(ends[..., :1]), ends[..., :-1]], dim=-1) & valid
        return Weights(starts.double(), starts.double())


class Signed(Aggregation):
    name = "signed"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(-valid.double(), -valid.double())


class AllStepsOfTheBatch(Aggregation):
    name = "all_steps_of_the_batch"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        labels = (ends.flatten().cumsum(0) - ends.flatten().long()).view(ends.shape)
        counts = torch.bincount(labels[valid], minlength=int(labels.max()) + 1 if labels.numel() else 1)
        own = valid / counts[labels].clamp(min=1).double()
        return Weights(own, own)


class NeighboursAverage(Aggregation):
    name = "neighbours_average"
    scope = "step"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(shares(valid, ends), shares(valid, ends))


class CountsGrow(Aggregation):
    name = "counts_grow"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        seen.append(float(valid.sum()))
        return Weights(valid.double(), once(valid, sum(seen)))


seen: Final[list[float]] = []


class ChangesTheMask(Aggregation):
    name = "changes_the_mask"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = valid.double()
        valid[..., -1:] = False
        return Weights(weights, weights)


class SecondForm(Aggregation):
    name = "second_form"

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        @contextmanager
        def other() -> Iterator[None]:
            forms.append("other")
            yield
            forms.pop()

        return {"other": other}

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), shares(valid, ends) if forms else valid.double())


forms: Final[list[str]] = []


class LoopedSequenceMean(Aggregation):
    """Right: row by row, in float32, and every number times 3."""

    name = "looped_sequence_mean"
    implements = "sequence_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = torch.zeros(valid.shape)
        for row in range(weights[..., 0].numel() if weights.numel() else 0):
            counts, stops = valid.flatten(0, -2)[row], ends.flatten(0, -2)[row]
            start = 0
            for stop in [*stops.nonzero().flatten().tolist(), len(stops) - 1]:
                part = counts[start : stop + 1]
                weights.view(-1, len(stops))[row, start : stop + 1] = 3 * part / part.sum().clamp(min=1)
                start = stop + 1
        return Weights(weights, weights)


class TotalsAtTheEnd(Aggregation):
    """Right: a sequence's total stands on its last step, and weights are divided by the length."""

    name = "totals_at_the_end"
    implements = "constant"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        last = ends | (valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1))
        return Weights(valid.double() / self.length, last.double())


class FinishedOnly(Aggregation):
    """Right, though none of the definitions: steps of an episode that the row cuts off weigh nothing."""

    name = "finished_only"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        finished = valid & (ends.flip(-1).cumsum(-1).flip(-1) > 0)
        return Weights(finished.double(), finished.double())


MUTANTS: Final = [
    Mutant("G01", MeanOfMeans, "token_mean"),
    Mutant("G02", DividedAgain, "token_mean"),
    Mutant("G03: the denominator spans several calls", CountsGrow, "token_mean"),
    Mutant("G04", NeverDivided, "token_mean"),
    Mutant("K14: averaged over pads", OverPadding, "token_mean"),
    Mutant("padding is trained", TrainsPadding, "token_mean"),
    Mutant("T08: the last action is excluded", WithoutEnds, "token_mean"),
    Mutant("the last action alone is trained", EndsOnly, "token_mean"),
    Mutant("rows weigh alike", RowMean, "token_mean"),
    Mutant("steps discounted by position", LaterStepsWeighLess, "token_mean"),
    Mutant("P23: overall sign", Signed, "token_mean"),
    Mutant("says step, is episode", NeighboursAverage, "token_mean"),
    Mutant("works in place", ChangesTheMask, "token_mean"),
    Mutant("another device, another formula", SecondForm, "token_mean"),
    Mutant("G09", SequenceMeansSummed, "sequence_mean"),
    Mutant("G15", EmptyRowsCount, "sequence_mean"),
    Mutant("0 / 0 of an empty row", NotANumberWhenEmpty, "sequence_mean"),
    Mutant("G07: length counts pads", PaddedLength, "sequence_mean"),
    Mutant("A01: ends shifted by one", EndBelongsToNext, "sequence_mean"),
    Mutant("cut-off episodes are not counted", OnlyFinished, "sequence_mean"),
    Mutant("a row is a sequence", RowMean, "sequence_mean"),
    Mutant("length off by one", LongByOne, "sequence_mean"),
    Mutant("length under a root", RootOfLength, "sequence_mean"),
    Mutant("rows joined end to end", AllStepsOfTheBatch, "sequence_mean"),
    Mutant("steps discounted by position", LaterStepsWeighLess, "sequence_mean"),
    Mutant("first steps only", FirstStepsOnly, "sequence_mean"),
    Mutant("G08", SumDividedByLength, "sequence_sum"),
    Mutant("G11", NotAveraged, "sequence_sum"),
    Mutant("averaged over steps", OverSteps, "sequence_sum"),
    Mutant("a row is a sequence", RowSum, "sequence_sum"),
    Mutant("cut-off episodes are not counted", OnlyFinishedSums, "sequence_sum"),
    Mutant("the last sequence counted twice", LastStepCounts, "sequence_sum"),
    Mutant("first steps only", FirstStepsOnly, "sequence_sum"),
    Mutant("G12", LongestRow, "constant"),
    Mutant("length is not read", LengthUnread, "constant"),
    Mutant("length multiplies", LengthMultiplies, "constant"),
    Mutant("averaged over steps", ConstantOverSteps, "constant"),
    Mutant("G11", ConstantNotAveraged, "constant"),
    Mutant("length as an upper bound", CappedLength, "constant"),
]
CONTROLS: Final[list[type[Aggregation]]] = [LoopedSequenceMean, TotalsAtTheEnd, FinishedOnly]
