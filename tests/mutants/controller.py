"""Broken controllers: wrong direction, wrong size of a step, wrong zone, runs that steer each other."""

from __future__ import annotations

from typing import Final

from mutants.controller_adaptive import (
    AddsTheFactor,
    EdgeIncluded,
    FirstRunDecides,
    FixedFactor,
    MeanOfRuns,
    Memory,
    NeedsAnAxis,
    NeverLowers,
    NeverRaises,
    NoTolerance,
    OneRunOnly,
    SquaredFactor,
    StartsFromZero,
    Subtracts,
    ToleranceAbove,
    ToleranceAdded,
    Turned,
    UpperLimit,
    ZoneInWholeNats,
)
from mutants.controller_controls import (
    EntropyFloor,
    InWords,
)
from mutants.controller_fixed import (
    AddsNoise,
    AtLeastALittle,
    AtMostOne,
    Decays,
    Overwrites,
    ReturnsObserved,
    Rounded,
    SecondForm,
    TurnsAround,
)
from mutants.controller_proportional import (
    AbsoluteError,
    Added,
    AddedUnclamped,
    ClippedAbove,
    Exponential,
    HalfPrecision,
    Inverse,
    Logarithmic,
    Negative,
    OneForgotten,
    RateBeforeClip,
    RateUnread,
    RatioClipped,
    Unclipped,
)
from mutants.mutant import Mutant
from rlhf_lab.components import Controller

__all__ = ["CONTROLS", "MUTANTS"]


MUTANTS: Final = [
    Mutant("decay", Decays, "fixed"),
    Mutant("upper limit", AtMostOne, "fixed"),
    Mutant("lower limit", AtLeastALittle, "fixed"),
    Mutant("returns what was observed", ReturnsObserved, "fixed"),
    Mutant("in place", Overwrites, "fixed"),
    Mutant("global randomness", AddsNoise, "fixed"),
    Mutant("one zone only", TurnsAround, "fixed"),
    Mutant("float32 inside", Rounded, "fixed"),
    Mutant("another device, another formula", SecondForm, "fixed"),
    Mutant("P11: direction", Turned, "adaptive_kl"),
    Mutant("never lowers", NeverLowers, "adaptive_kl"),
    Mutant("never raises", NeverRaises, "adaptive_kl"),
    Mutant("factor applied twice", SquaredFactor, "adaptive_kl"),
    Mutant("no dead zone", NoTolerance, "adaptive_kl"),
    Mutant("dead zone above only", ToleranceAbove, "adaptive_kl"),
    Mutant("dead zone by difference", ToleranceAdded, "adaptive_kl"),
    Mutant("edge included", EdgeIncluded, "adaptive_kl"),
    Mutant("adds", AddsTheFactor, "adaptive_kl"),
    Mutant("adds, below 0", Subtracts, "adaptive_kl"),
    Mutant("factor is not read", FixedFactor, "adaptive_kl"),
    Mutant("mean over runs", MeanOfRuns, "adaptive_kl"),
    Mutant("the first run decides", FirstRunDecides, "adaptive_kl"),
    Mutant("one run only", OneRunOnly, "adaptive_kl"),
    Mutant("several runs only", NeedsAnAxis, "adaptive_kl"),
    Mutant("leaves 0", StartsFromZero, "adaptive_kl"),
    Mutant("upper limit", UpperLimit, "adaptive_kl"),
    Mutant("dead zone in nats", ZoneInWholeNats, "adaptive_kl"),
    Mutant("keeps state", Memory, "adaptive_kl"),
    Mutant("P11: direction", Negative, "proportional_kl"),
    Mutant("no clip", Unclipped, "proportional_kl"),
    Mutant("clip above only", ClippedAbove, "proportional_kl"),
    Mutant("clip of the ratio", RatioClipped, "proportional_kl"),
    Mutant("error not relative", AbsoluteError, "proportional_kl"),
    Mutant("exponential", Exponential, "proportional_kl"),
    Mutant("relative to what was observed", Inverse, "proportional_kl"),
    Mutant("logarithmic", Logarithmic, "proportional_kl"),
    Mutant("rate inside the clip", RateBeforeClip, "proportional_kl"),
    Mutant("rate is not read", RateUnread, "proportional_kl"),
    Mutant("adds", Added, "proportional_kl"),
    Mutant("adds, below 0", AddedUnclamped, "proportional_kl"),
    Mutant("one forgotten", OneForgotten, "proportional_kl"),
    Mutant("half precision", HalfPrecision, "proportional_kl"),
]


CONTROLS: Final[list[type[Controller]]] = [InWords, EntropyFloor]
