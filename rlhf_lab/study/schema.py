"""What a study file says: a common spec, arms, seeds, what to measure, and which published figures it tests.

Free of torch, so that a report can be rebuilt and the schema printed quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "MEASURES",
    "Best",
    "Bound",
    "Conclusion",
    "Figure",
    "Form",
    "Level",
    "Order",
    "Score",
    "Share",
    "Study",
    "wrong_measure",
]

MEASURES = {
    "learning_curve": "what the trainer reports at each recorded point, and the exact return where the world allows it",
    "regret": "exact return of the optimum minus that of the acting policy, summed over all iterations",
    "value_error": "RMS error of the critic against the exact values, over all states that can be visited",
    "optimal_action": "probability of an optimal action under the policy, averaged over the start distribution",
    "regularised": "exact objective E r - beta KL(policy || reference) in a world of token strings, its gap to the "
    "optimum, both KLs and distances of probabilities; the reference is the policy before any training of the arm",
    "likelihood": "log-likelihood of the data's best and worst responses and the exact probability of all responses "
    "that they never show, and their changes since before any training; in arms that learn from data",
    "overoptimisation": "gain of the true and of the paid reward over the untrained policy, and the square root of the "
    "KL to it",
    "gradient_along": "as gradient_error, at each recorded point: of the policy and with the critic of each run, for "
    "the rewards that are paid in training",
    "ends": "exact probability of each way in which episodes end, and the mean steps to it, in worlds that tell",
    "estimator_error": "exact bias, variance and MSE of the advantage estimator in the first seed's world; no sampling",
    "gradient_error": "exact bias, variance trace and cosine of the expected gradient of the loss summed over each "
    "episode, whatever the aggregation, in the first seed's world, and its noise, which is the variance by the squared "
    "length of the mean and free of scale, as the cosine is; no sampling",
    "exact_values": "number of states, best return, returns of the initial and of the uniform policy, and the length "
    "of the initial policy's gradient in the logits of a table, in the first seed's world; no sampling",
    "advantage_signs": "how often an action of high value has a negative advantage, and the largest and the smallest "
    "advantage, of the initial and of an optimal policy in the first seed's world; no sampling",
    "paid_optimum": "where a policy that is optimal for what is paid is not optimal, its true return and how episodes "
    "end under it, in the first seed's world; no sampling",
    "exhibits": "what the environment shows of the first seed's policy, in pictures and tables: of the final one where "
    "a curve is measured along a run, else of the initial one",
    "first_update": "loss and gradient of the first update on one batch, against the REINFORCE gradient",
}

WINDOW: Final = (0.9, 1.0)
MOST_SEEDS: Final = 100_000


def wrong_measure(measures: Iterable[Any]) -> str:
    """Return what is wrong with the first name that is no measure, or nothing."""
    unknown = next((name for name in measures if not isinstance(name, str) or name not in MEASURES), None)
    return "" if unknown is None else f"{unknown!r} is unknown. Possible: {', '.join(MEASURES)}"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Model):
    """One number per seed, from a curve. The first score of a study is the one that tables and comparisons use."""

    metric: str = Field(description="name of a recorded metric")
    at: Literal["last", "mean", "first", "window"] = Field(
        default="last",
        description="last or first point; mean of all points (area under the curve); mean of the points in `window`",
    )
    window: tuple[float, float] = Field(default=WINDOW, description="fractions of the curve, for at: window")
    better: Literal["higher", "lower"] = Field(default="higher", description="which direction is good")
    label: str = Field(default="", description="what tables call it; default: the metric's name")
    arms: list[str] = Field(
        default_factory=lambda: ["*"], description="shell patterns of the arms that have it; !pattern leaves out"
    )

    @model_validator(mode="after")
    def _read_window(self) -> Self:
        low, high = self.window
        if not 0 <= low < high <= 1:
            raise ValueError(f"window: expected fractions 0 <= low < high <= 1, found [{low:g}, {high:g}]")
        # a study that was saved names every key: the default window beside another `at` is no mistake
        if self.at != "window" and self.window != WINDOW:
            raise ValueError(f"window: at: {self.at} does not read it; write at: window, or leave window out")
        return self


class Figure(_Model):
    """One plot of the report."""

    kind: Literal["curve", "sweep", "frontier"] = Field(
        description="curve: metric over x; sweep: score or exact quantity over a parameter; frontier: y over x quantity"
    )
    y: str = Field(description="metric (curve), or score or exact quantity (sweep, frontier)")
    x: str = Field(
        default="steps",
        description="steps, episodes, iteration or a metric, then at its mean over seeds (curve); dotted parameter "
        "(sweep); quantity (frontier)",
    )
    series: str | None = Field(
        default=None, description="dotted parameter that tells lines apart; default: one per arm"
    )
    arms: list[str] = Field(
        default_factory=lambda: ["*"], description="shell patterns of the arms to show; !pattern leaves out"
    )
    title: str = Field(default="", description="default: made from x and y")
    caption: str = Field(default="", description="what a reader should see in it")
    statistic: Literal["mean", "iqm"] = Field(
        default="mean", description="over seeds, with its bootstrap band; conclusions are about means"
    )
    x_log: bool = False
    y_log: bool = False


class _Conclusion(_Model):
    statement: str = Field(description="what is claimed, in one sentence")
    claim: str = Field(default="", description="id of the claim or figure it tests")
    source: str = Field(default="", description="where the claim or figure is published")


class Order(_Conclusion):
    """One arm is better than another: paired difference of a score over seeds, or of an exact quantity."""

    kind: Literal["order"]
    better: str = Field(description="name of an arm")
    worse: str = Field(description="name of an arm")
    quantity: str | None = Field(default=None, description="score or exact quantity; default: the first score")
    direction: Literal["higher", "lower"] | None = Field(default=None, description="default: the score's")

    @model_validator(mode="after")
    def _two_arms(self) -> Self:
        if self.better == self.worse:
            raise ValueError(f"better and worse are the same arm, {self.better!r}; name two")
        return self


class Level(_Conclusion):
    """An arm's mean score, or exact quantity, is the published figure within a tolerance."""

    kind: Literal["level"]
    arm: str
    published: float
    tolerance: float = Field(gt=0)
    quantity: str | None = None


class Bound(_Conclusion):
    """An arm's mean score, or exact quantity, is at least or at most a number."""

    kind: Literal["bound"]
    arm: str
    at_least: float | None = Field(default=None, description="lower bound; exactly one of the two is given")
    at_most: float | None = Field(default=None, description="upper bound")
    quantity: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of at_least and at_most")
        return self

    @property
    def bound(self) -> float:
        """The number."""
        return next(x for x in (self.at_least, self.at_most) if x is not None)

    @property
    def side(self) -> Literal["at least", "at most"]:
        """Which side of the number is claimed."""
        return "at most" if self.at_least is None else "at least"


class Best(_Conclusion):
    """Among the arms that match `among`, the one with the best mean is `expected`."""

    kind: Literal["best"]
    among: list[str] = Field(default_factory=lambda: ["*"], description="shell patterns of arm names")
    expected: str = Field(description="shell pattern of the arm that should win")
    quantity: str | None = None
    direction: Literal["higher", "lower"] | None = None


class Share(_Conclusion):
    """At least `share` of an arm's seeds reach `threshold`."""

    kind: Literal["share"]
    arm: str
    threshold: float
    share: float = Field(ge=0, le=1)
    quantity: str | None = None


class Form(_Conclusion):
    """Along an arm's training, one metric follows another in a published form, fitted to each seed by least squares."""

    kind: Literal["form"]
    arm: str
    y: str = Field(description="the metric that is explained, 0 where x is 0")
    x: str = Field(description="the metric that explains it, not negative")
    form: Literal["d (a - b d)", "d (a - b log d)"] = Field(description="of y, where d is x")
    r2: float = Field(default=0.9, gt=0, lt=1, description="share of y's squared deviations that the form must explain")

    @property
    def quantity(self) -> str:
        """What is explained."""
        return self.y


Conclusion = Annotated[Order | Level | Bound | Best | Share | Form, Field(discriminator="kind")]


class Study(_Model):
    """A comparison of arms over seeds.

    Every arm is the common ``spec`` with its own overrides; ``grid`` crosses all arms with lists of parameter values.
    """

    title: str = Field(description="what the study is about, in a few words")
    description: str = Field(default="", description="what it asks and how it answers, in a paragraph")
    spec: dict[str, Any] = Field(description="the common spec: environment, policy, trainer, advantage, objective ...")
    arms: dict[str, dict[str, Any]] = Field(
        default={"base": {}},
        min_length=1,
        description="overrides by arm: nested, or dotted paths; with `stages: {name: overrides}` an arm is trained in "
        "stages, each from the weights of all before it, and its curves are those of the last; with `measure: [...]` "
        "that is measured of it, and not what the study measures",
    )
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="dotted path -> values; crossed with the arms")
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default=20, description="how many seeds (0, 1, ...), or their list"
    )
    measure: list[str] = Field(
        default_factory=lambda: ["learning_curve"],
        min_length=1,
        description="what to measure of every arm that does not say so itself",
    )
    references: dict[str, dict[Literal["optimum", "uniform", "reference"], float]] = Field(
        default_factory=dict,
        description="known levels by metric, where the world's own optimum is not the best that the policy can express",
    )
    scores: dict[str, Score] = Field(default_factory=dict, description="numbers per seed, by name")
    figures: list[Figure] = Field(default_factory=list)
    conclusions: list[Conclusion] = Field(default_factory=list)

    @property
    def seed_list(self) -> list[int]:
        """The seeds, as a list."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any) -> Any:
        """Refuse in one sentence what pydantic would refuse once per branch, or take for a number (true, 1.0)."""
        listed = isinstance(value, list | tuple)
        low, high = (0, 2**32 - 1) if listed else (1, MOST_SEEDS)
        for seed in value if listed else [value]:
            if type(seed) is not int or not low <= seed <= high:
                raise ValueError(
                    f"expected how many (1 to {MOST_SEEDS}) or a list of seeds from 0 to 2^32 - 1, found {value!r}"
                )
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if wrong := wrong_measure(self.measure):
            raise ValueError(f"measure: {wrong}")
        seeds = self.seed_list
        if len(set(seeds)) != len(seeds) or not seeds:
            raise ValueError("seeds: the list must name each seed once and at least one")
        return self
