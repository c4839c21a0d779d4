"""Synthetic results: what a runner would hand to statistics and report, made without torch and without training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlhf_lab.cli import main
from rlhf_lab.study.results import ArmResult, Results
from rlhf_lab.study.schema import Study

OPTIMUM, UNIFORM = -(6 + 4 * 2**0.5), -12.0
PROVENANCE = {
    "arms": ["reinforce", "baseline", "gae", "td"],
    "seeds": [0, 1, 2, 3],
    "versions": {"rlhf-lab": "0.1.0", "torch": "2.13.0"},
    "processor": "a processor",
}


def learning(seeds: int = 20, failed: int = 2, points: int = 60) -> Results:
    """Four arms that learn a corridor at different speeds; ``failed`` seeds of the last arm turn to NaN half-way."""
    study = Study.model_validate(
        {
            "title": "Which estimator learns the short corridor?",
            "description": "Four estimators on a world whose optimum is known. Start and noise are shared by all arms.",
            "spec": {"environment": {"name": "short_corridor"}, "trainer": {"name": "online"}},
            "arms": {name: {"advantage": name} for name in ("reinforce", "baseline", "gae", "td")},
            "seeds": seeds,
            "scores": {
                "final": {"metric": "exact_return", "at": "window", "label": "exact return"},
                "area": {"metric": "exact_return", "at": "mean"},
            },
            "figures": [
                {"kind": "curve", "y": "exact_return", "x": "episodes", "caption": "All end near the optimum but td."},
                {"kind": "curve", "y": "value_error", "x": "episodes", "y_log": True, "statistic": "iqm"},
            ],
            "conclusions": [
                {
                    "kind": "order",
                    "statement": "A baseline makes REINFORCE faster",
                    "claim": "F12",
                    "source": "Sutton and Barto 2018, figure 13.2",
                    "better": "baseline",
                    "worse": "reinforce",
                    "quantity": "area",
                },
                {"kind": "order", "statement": "TD beats GAE", "better": "td", "worse": "gae"},
                {
                    "kind": "level",
                    "statement": "GAE ends at the optimum",
                    "arm": "gae",
                    "published": OPTIMUM,
                    "tolerance": 0.5,
                },
                {"kind": "best", "statement": "GAE is best of all", "expected": "gae"},
                {
                    "kind": "share",
                    "statement": "Most seeds of TD reach -20",
                    "arm": "td",
                    "threshold": -20,
                    "share": 0.8,
                },
            ],
        }
    )
    rng = np.random.default_rng(7)
    start, shared = -70 + 4 * rng.normal(size=seeds), 0.4 * rng.normal(size=(points, seeds))
    x = np.linspace(0, 1000, points)
    arms = []
    for i, (name, speed, level) in enumerate(
        [("reinforce", 260, -13.5), ("baseline", 150, -12.2), ("gae", 110, -11.9), ("td", 90, -16.0)]
    ):
        decay = np.exp(-x[:, None] / (speed * rng.uniform(0.8, 1.25, seeds)))
        curve = level + (start - level) * decay + shared + 0.5 * rng.normal(size=(points, seeds))
        broken = np.arange(seeds) < (failed if name == "td" else 0)
        curve[points // 2 :, broken] = np.nan
        arms.append(
            ArmResult(
                name=name,
                spec={
                    "environment": {"name": "short_corridor", "gamma": 1.0},
                    "advantage": {"name": name, "gamma": 1.0},
                },
                parameters={"arm": name, "advantage": name, "advantage.lam": (None, None, 0.95, 0.0)[i]},
                seeds=tuple(range(seeds)),
                x={"iteration": np.arange(points, dtype=float), "episodes": x, "steps": 13 * x},
                curves={"exact_return": curve, "value_error": 5 * decay + 0.05 * (i + 1)},
                failed=broken,
                references={"exact_return": {"optimum": OPTIMUM, "uniform": UNIFORM}},
                seconds=1.5,
            )
        )
    return Results("short-corridor", study, tuple(arms), PROVENANCE, (), "runs/short-corridor")


def trade_off() -> Results:
    """Sixty arms without seeds: exact bias and variance of n-step and GAE for four critics."""
    study = Study.model_validate(
        {
            "title": "Bias and variance of advantage estimators",
            "description": "Computed from the dynamics, no sampling.",
            "spec": {"environment": {"name": "random_walk"}},
            "arms": {"gae": {"advantage": "gae"}, "n_step": {"advantage": "n_step"}},
            "seeds": 1,
            "measure": ["estimator_error"],
            "figures": [
                {
                    "kind": "frontier",
                    "x": "bias",
                    "y": "variance",
                    "series": "critic.error",
                    "arms": ["gae*"],
                    "title": "GAE",
                },
                {"kind": "frontier", "x": "bias", "y": "variance", "arms": ["*"]},
                {"kind": "sweep", "x": "advantage.lam", "y": "mse", "series": "critic.error", "y_log": True},
                {"kind": "sweep", "x": "advantage.n", "y": "mse", "x_log": True, "y_log": True},
            ],
            "conclusions": [
                {
                    "kind": "order",
                    "statement": "Variance grows with lambda",
                    "claim": "C29",
                    "better": "gae error=1.0, lam=0.0",
                    "worse": "gae error=1.0, lam=1.0",
                    "quantity": "variance",
                    "direction": "lower",
                },
                {
                    "kind": "level",
                    "statement": "The Monte Carlo return is unbiased",
                    "arm": "gae error=1.0, lam=1.0",
                    "quantity": "bias",
                    "published": 0,
                    "tolerance": 1e-12,
                },
            ],
        }
    )
    arms = []
    for error in (0.25, 0.5, 1.0, 2.0):
        for name, values in (("gae", (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)), ("n_step", (1, 2, 4, 8, 16, 32, 64))):
            for value in values:
                own = {"lam": value} if name == "gae" else {"n": value}
                carry = value if name == "gae" else 1 - 1 / value
                bias, variance = error * (1 - carry), 0.2 + 2.5 / (1.6 - carry) - 1.2 + 0.05 * error
                label = ", ".join(f"{key}={shown}" for key, shown in {"error": error, **own}.items())
                arms.append(
                    ArmResult(
                        name=f"{name} {label}",
                        spec={
                            "environment": {"name": "random_walk", "states": 19},
                            "advantage": {"name": name, "gamma": 1.0, **own},
                            "critic": {"error": error},
                        },
                        parameters={
                            "arm": name,
                            "advantage": name,
                            "critic.error": error,
                            **{f"advantage.{key}": shown for key, shown in own.items()},
                        },
                        seeds=(0,),
                        exact={"bias": bias, "variance": variance, "mse": bias**2 + variance},
                    )
                )
    return Results("bias-variance", study, tuple(arms), {"versions": {"rlhf-lab": "0.1.0"}})


def one_score(scores: dict[str, Any], conclusions: list[dict[str, Any]], **score: Any) -> Results:
    """Arms whose score is given seed by seed; NaN marks a failed seed."""
    study = Study.model_validate(
        {
            "title": "t",
            "spec": {"environment": "bandit"},
            "arms": {name: {} for name in scores},
            "scores": {"reward": {"metric": "reward", **score}},
            "conclusions": conclusions,
        }
    )
    arms = []
    for name, given in scores.items():
        values = np.array(given, dtype=float)
        arms.append(
            ArmResult(
                name=name,
                spec={"environment": {"name": "bandit"}},
                parameters={"arm": name},
                seeds=tuple(range(len(values))),
                x={"steps": np.array([1.0])},
                curves={"reward": values[None]},
                failed=np.isnan(values),
            )
        )
    return Results("t", study, tuple(arms), {})


@pytest.fixture
def learning_results() -> Callable[..., Results]:
    return learning


@pytest.fixture
def trade_off_results() -> Callable[[], Results]:
    return trade_off


@pytest.fixture
def score_results() -> Callable[..., Results]:
    return one_score


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what verification remembers out of the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs ``rlhf-lab`` in an empty folder and gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf-lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run
