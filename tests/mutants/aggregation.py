"""Broken aggregations: denominators of micro-batches, lengths, sequences and padding that are counted wrongly.

Codes are those of the list of real bugs. A batch is ``[rows, t]`` or ``[runs, rows, t]``, so that sums over the last
two axes are those of one micro-batch.
"""

from __future__ import annotations

from typing import Final

from mutants.aggregation_controls import (
    FinishedOnly,
    LoopedSequenceMean,
    TotalsAtTheEnd,
)
from mutants.aggregation_others import (
    AllStepsOfTheBatch,
    CappedLength,
    ChangesTheMask,
    ConstantNotAveraged,
    ConstantOverSteps,
    CountsGrow,
    FirstStepsOnly,
    LaterStepsWeighLess,
    LengthMultiplies,
    LengthUnread,
    LongestRow,
    NeighboursAverage,
    SecondForm,
    Signed,
)
from mutants.aggregation_steps import (
    DividedAgain,
    EmptyRowsCount,
    EndBelongsToNext,
    EndsOnly,
    LastStepCounts,
    LongByOne,
    MeanOfMeans,
    NeverDivided,
    NotANumberWhenEmpty,
    NotAveraged,
    OnlyFinished,
    OnlyFinishedSums,
    OverPadding,
    OverSteps,
    PaddedLength,
    RootOfLength,
    RowMean,
    RowSum,
    SequenceMeansSummed,
    SumDividedByLength,
    TrainsPadding,
    WithoutEnds,
)
from mutants.mutant import Mutant
from rlhf_lab.components import Aggregation

__all__ = ["CONTROLS", "MUTANTS"]


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
