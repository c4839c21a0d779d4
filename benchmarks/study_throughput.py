"""Environment steps per second, learning included, against Stable-Baselines3 in the same run.

    python benchmarks/study_throughput.py [--rounds 5] [--workers 2]

Two comparisons with equal hyper-parameters on each side: A2C on the 19-state random walk (tabular policy here, a linear
network on one-hot states there; 8 environments x 5 steps), and PPO on the cart pole (4 environments x 128 steps, 4
epochs x 4 minibatches, separate 64-64 tanh networks). Ours is summed over 100 seeds that train at once; theirs is one
seed, as it runs there. Both sides have the same number of threads:

- loop: one arm in one process with one thread; the peer has one thread;
- study: a whole call of ``compare``, start-up, recording, statistics and report included, with one arm of 100 seeds
  per worker process and one thread in each; the peer has as many threads as there are workers.

Rounds alternate between the sides; printed are the medians of the rounds and the medians of their ratios, then the cost
of a step and seed for 1, 10, 100 and 1000 seeds at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import tempfile
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rlhf_lab import compare
from rlhf_lab.registry import Registry, load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start

WALK: dict[str, Any] = {
    "environment": {"name": "random_walk", "states": 19},
    "policy": {"name": "tabular_softmax", "critic": True},
    "trainer": {"name": "online", "envs": 8, "steps": 5, "max_grad_norm": 0.5},
    "advantage": {"name": "gae", "lam": 1.0},
    "objective": "reinforce",
    "value": "mse",
    "optimizer": {"name": "sgd", "lr": 0.01},
    "gamma": 0.99,
}
CARTPOLE: dict[str, Any] = {
    "environment": "cartpole",
    "policy": {"name": "mlp", "hidden": [64, 64], "activation": "tanh"},
    "trainer": {"name": "online", "envs": 4, "steps": 128, "epochs": 4, "minibatches": 4, "max_grad_norm": 0.5},
    "advantage": {"name": "gae", "lam": 0.95},
    "normalizer": "batch",
    "objective": "ppo_clip",
    "value": "mse",
    "optimizer": {"name": "adam", "lr": 2.5e-4},
    "gamma": 0.99,
}


class Walk(gymnasium.Env[Any, Any]):
    """The 19-state walk as a plain Gymnasium environment, for the peer."""

    observation_space = gymnasium.spaces.Discrete(21)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 10
        return self.state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.state += 1 if action else -1
        done = self.state in (0, 20)
        return self.state, float(np.sign(self.state - 10)) if done else 0.0, done, False, {}


def ours(data: dict[str, Any], seeds: int, iterations: int, registry: Registry) -> float:
    """Return environment steps per second over all seeds, after a warm-up."""
    learner = start(make_spec(data, registry)[0], list(range(seeds)))
    for _ in range(2):
        learner.step(0.0)
    began = time.perf_counter()
    for _ in range(iterations):
        learner.step(0.0)
    size = data["trainer"]["envs"] * data["trainer"]["steps"]
    return seeds * size * iterations / (time.perf_counter() - began)


def whole_study(data: dict[str, Any], iterations: int, workers: int) -> float:
    """Return environment steps per second of a study of 100 seeds per worker, from the call to the written report."""
    study = {
        "title": "throughput",
        "spec": data | {"budget": {"iterations": iterations}, "record_every": max(1, iterations // 50)},
        "arms": {f"arm {i}": {} for i in range(workers)},
        "seeds": 100,
    }
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        compare(study, out=directory, workers=workers)
        seconds = time.perf_counter() - began
    return workers * 100 * data["trainer"]["envs"] * data["trainer"]["steps"] * iterations / seconds


def theirs(kind: str, steps: int, threads: int) -> float:
    """Return environment steps per second of one Stable-Baselines3 run, after a warm-up."""
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    if kind == "walk":
        envs = DummyVecEnv([Walk for _ in range(8)])
        model: Any = A2C("MlpPolicy", envs, n_steps=5, policy_kwargs={"net_arch": []}, device="cpu")
    else:
        envs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(4)])
        model = PPO(
            "MlpPolicy", envs, n_steps=128, n_epochs=4, batch_size=128, learning_rate=2.5e-4, clip_range=0.2,
            vf_coef=0.5, policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}}, device="cpu",
        )  # fmt: skip
    torch.set_num_threads(threads)
    model.learn(512)
    began = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - began
    torch.set_num_threads(1)
    return steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console, registry = Console(), load_plugins()
    peer = importlib.util.find_spec("stable_baselines3") is not None
    if not peer:
        console.print("stable-baselines3 is not installed (extra `bench`): only our own figures follow")

    table = Table(
        "task", "threads on each side", "ours, steps/s", "Stable-Baselines3, steps/s", "ratio", "of the rounds"
    )
    for kind, data, loops, length, steps in (("walk", WALK, 300, 20_000, 8000), ("cartpole", CARTPOLE, 3, 100, 8192)):
        sides: dict[int, list[tuple[float, float]]] = {1: [], options.workers: []}
        for _ in range(options.rounds):
            for threads, rounds in sides.items():
                other = theirs(kind, steps, threads) if peer else math.nan
                one = threads == 1
                own = ours(data, 100, loops, registry) if one else whole_study(data, length, options.workers)
                rounds.append((own, other))
        for threads, rounds in sides.items():
            ratios = sorted(own / other for own, other in rounds)
            own, other = (statistics.median(side) for side in zip(*rounds, strict=True))
            name = f"{kind}, {'loop' if threads == 1 else 'study'}"
            spread = f"{ratios[0]:,.0f}x to {ratios[-1]:,.0f}x"
            table.add_row(
                name, f"{threads}", f"{own:,.0f}", f"{other:,.0f}", f"{statistics.median(ratios):,.0f}x", spread
            )
    console.print(table)

    scaling = Table("seeds at once", *(f"{kind}: µs per step and seed" for kind in ("walk", "cartpole")))
    for seeds, loops in ((1, (400, 20)), (10, (400, 10)), (100, (200, 3)), (1000, (40, 1))):
        costs = [1e6 / ours(data, seeds, n, registry) for data, n in zip((WALK, CARTPOLE), loops, strict=True)]
        scaling.add_row(f"{seeds}", *(f"{cost:.3f}" for cost in costs))
    console.print(scaling)


if __name__ == "__main__":
    main()
