"""Advantage estimators against a plain copy of their bytes, and against how others write GAE.

    OMP_NUM_THREADS=1 python benchmarks/advantages.py

Each estimator is called as everybody calls it, on a batch that is already there, and gives a checked ``Advantages``.
Its floor is one ``copy_`` between buffers that exist, whose bytes read and written equal the estimator's inputs and
outputs; the estimator also allocates its outputs.

Times are the thread's CPU time, so that a busy machine disturbs less, and medians over rounds in which every contestant
runs once. Data: normal rewards and values, 5 % holes (none for peers), 1 % terminations, 1 % truncations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Trajectories
from rlhf_lab_advantages import GAE, MonteCarlo, NStep, TDLambda, VTrace

SHAPES = [(256, 1024), (4096, 128), (64, 512), (16, 16384)]
TARGET_SHAPES = SHAPES[:2]
ROUNDS = 21
SLOW = 0.2  # seconds; a contestant slower than this runs in three rounds only
GAMMA, LAM = 0.99, 0.95

ESTIMATORS: list[tuple[str, AdvantageEstimator, float | None]] = [
    ("monte_carlo", MonteCarlo(), 5),
    ("gae", GAE(), 5),
    ("td_lambda", TDLambda(), 5),
    ("v_trace", VTrace(), 12),
    ("n_step, n = 5", NStep(n=5), 12),
    ("n_step, n = 64", NStep(n=64), 12),
]


def fields_of(shape: tuple[int, int], holes: float = 0.05) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def chance(p: float) -> Tensor:
        return torch.rand(shape, generator=generator) < p

    names = ("rewards", "values", "next_values", "log_probs", "target_log_probs")
    found = {name: torch.randn(shape, generator=generator) for name in names}
    valid = ~chance(holes)
    return found | {"valid": valid, "terminated": chance(0.01) & valid, "truncated": chance(0.01) & valid}


def floor_of(read: list[Tensor], written: int) -> Callable[[], object]:
    """Return a copy that reads and writes, together, as many bytes as ``read`` and ``written`` have."""
    moved = sum(x.numel() * x.element_size() for x in read) + written
    source = torch.ones(moved // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def torch_loop(x: dict[str, Tensor]) -> Tensor:
    """Batch-first tensors, a Python loop over time that writes columns."""
    advantages = torch.zeros_like(x["rewards"])
    alive, inside = 1 - x["terminated"].float(), 1 - (x["terminated"] | x["truncated"]).float()
    carry = torch.zeros(len(advantages))
    for t in reversed(range(advantages.shape[1])):
        delta = x["rewards"][:, t] + GAMMA * x["next_values"][:, t] * alive[:, t] - x["values"][:, t]
        carry = delta + GAMMA * LAM * inside[:, t] * carry
        advantages[:, t] = carry
    return advantages


def list_loop(x: dict[str, Tensor]) -> Tensor:
    """The form of PPO trainers for language models: one episode per row, a list of columns, reversed and stacked."""
    columns: list[Tensor] = []
    carry: Tensor | float = 0.0
    steps = x["rewards"].shape[1]
    for t in reversed(range(steps)):
        following = x["values"][:, t + 1] if t < steps - 1 else 0.0
        carry = x["rewards"][:, t] + GAMMA * following - x["values"][:, t] + GAMMA * LAM * carry
        columns.append(carry)
    return torch.stack(columns[::-1], dim=1)


def numpy_loop(x: dict[str, Tensor]) -> Callable[[], object]:
    """Time-major arrays, a Python loop over time: the form of most environment libraries."""
    rewards, values, following = (np.ascontiguousarray(x[k].numpy().T) for k in ("rewards", "values", "next_values"))
    alive = np.ascontiguousarray(1 - x["terminated"].numpy().T.astype(np.float32))
    inside = np.ascontiguousarray(1 - (x["terminated"] | x["truncated"]).numpy().T.astype(np.float32))

    def run() -> object:
        advantages = np.zeros_like(rewards)
        carry = np.zeros(rewards.shape[1], dtype=np.float32)
        for t in reversed(range(len(rewards))):
            delta = rewards[t] + GAMMA * following[t] * alive[t] - values[t]
            carry = delta + GAMMA * LAM * inside[t] * carry
            advantages[t] = carry
        return advantages, advantages + values

    return run


def stable_baselines3(x: dict[str, Tensor]) -> Callable[[], object]:
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import RolloutBuffer

    rows, steps = x["rewards"].shape
    space = Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, gae_lambda=LAM, gamma=GAMMA, n_envs=rows)
    ends = (x["terminated"] | x["truncated"]).float().numpy().T
    buffer.rewards, buffer.values = (np.ascontiguousarray(x[k].numpy().T) for k in ("rewards", "values"))
    buffer.episode_starts = np.concatenate([np.zeros((1, rows), np.float32), ends[:-1]])
    return lambda: buffer.compute_returns_and_advantage(x["next_values"][:, -1], ends[-1])


def torchrl(x: dict[str, Tensor], vectorised: bool) -> Callable[[], object]:
    from torchrl.objectives.value import functional

    call = functional.vec_generalized_advantage_estimate if vectorised else functional.generalized_advantage_estimate
    names = ("values", "next_values", "rewards")
    values, following, rewards = (x[k][..., None] for k in names)
    done, terminated = (x["terminated"] | x["truncated"])[..., None], x["terminated"][..., None]
    return lambda: call(GAMMA, LAM, values, following, rewards, done, terminated)


def peers(x: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    found = {
        "batch-first torch loop": lambda: torch_loop(x),
        "list loop (as in TRL)": lambda: list_loop(x),
        "time-major NumPy loop": numpy_loop(x),
    }
    if find_spec("stable_baselines3"):
        found["stable-baselines3"] = stable_baselines3(x)
    if find_spec("torchrl"):
        found["torchrl, loop"] = torchrl(x, vectorised=False)
        found["torchrl, vectorised"] = torchrl(x, vectorised=True)
    return found


def measure(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median milliseconds of each, over interleaved rounds after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(ROUNDS + 1):
        for name, call in contestants.items():
            if round_ > 3 and times[name][0] > SLOW * 1000:
                continue
            start = time.thread_time()
            call()
            times[name].append((time.thread_time() - start) * 1000)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def against_floor(shape: tuple[int, int], table: Table) -> None:
    tensors = fields_of(shape)
    batch = Trajectories(**tensors)
    cell = shape[0] * shape[1] * 4
    flags = [batch.terminated, batch.truncated, batch.valid]
    contestants: dict[str, Callable[[], object]] = {}
    for name, estimator, _ in ESTIMATORS:
        read = [batch.rewards, *flags, *(getattr(batch, field) for field in estimator.needs())]
        contestants[name] = lambda estimator=estimator: estimator(batch)  # type: ignore[misc]
        contestants[name + " floor"] = floor_of(read, cell if isinstance(estimator, MonteCarlo) else 2 * cell)
    contestants["construction"] = lambda: Trajectories(**tensors)
    contestants["construction floor"] = floor_of(list(tensors.values()), 0)
    found = measure(contestants)
    for name, target in [*((name, target) for name, _, target in ESTIMATORS), ("construction", 3)]:
        ratio = found[name] / found[name + " floor"]
        due = f"{target:g}x" if target and shape in TARGET_SHAPES else ""
        kept = "" if not due else "[green]kept" if ratio <= float(target or 0) else "[red]missed"
        size = f"{shape[0]} x {shape[1]}"
        table.add_row(size, name, f"{found[name]:.3f}", f"{found[name + ' floor']:.3f}", f"{ratio:.1f}x", due, kept)
    table.add_section()


def against_peers(shape: tuple[int, int], table: Table) -> None:
    tensors = fields_of(shape, holes=0.0)  # peers know no holes
    batch = Trajectories(**tensors)
    estimator = GAE(gamma=GAMMA, lam=LAM)
    read = [batch.rewards, batch.terminated, batch.truncated, batch.valid, tensors["values"], tensors["next_values"]]
    floor = floor_of(read, 2 * read[0].numel() * 4)
    found = measure({"floor": floor, "rlhf_lab gae": lambda: estimator(batch)} | peers(tensors))
    for name, milliseconds in found.items():
        if name != "floor":
            to_floor, to_us = milliseconds / found["floor"], milliseconds / found["rlhf_lab gae"]
            size = f"{shape[0]} x {shape[1]}"
            table.add_row(size, name, f"{milliseconds:.3f}", f"{to_floor:.1f}x", f"{to_us:.1f}x")
    table.add_section()


def float32_errors(table: Table) -> None:
    tensors = fields_of((64, 4096))
    wide = {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
    for name, estimator, _ in ESTIMATORS:
        short, exact = estimator(Trajectories(**tensors)).advantages, estimator(Trajectories(**wide)).advantages
        table.add_row(name, f"{float((short - exact).abs().max() / exact.abs().max()):.1e}", "1e-05")


def main() -> None:
    torch.set_num_threads(1)
    console = Console()
    floors = Table(
        "shape", "estimator", "ms", "copy, ms", "ratio", "at most", "", title="Against one copy of the bytes"
    )
    for shape in SHAPES:
        against_floor(shape, floors)
    console.print(floors)
    others = Table("shape", "GAE by", "ms", "to the copy", "to rlhf_lab", title="Against other ways to write GAE")
    for shape in SHAPES:
        against_peers(shape, others)
    console.print(others)
    for package in ("stable_baselines3", "torchrl"):
        if not find_spec(package):
            console.print(f"{package} is not installed and was left out: pip install 'rlhf-lab[bench]'")
    errors = Table("estimator", "max|x - x64| / max|x64|", "at most", title="float32 at T = 4096")
    float32_errors(errors)
    console.print(errors)


if __name__ == "__main__":
    main()
