"""Chess endings: how long their tables take, how fast games are played, how long exact answers take.

    python benchmarks/chess_endings.py [--rounds 9] [--device cuda]

A step is a move and its answer. Ours counts the step itself, the mask of the legal moves and new games where one ended;
what chooses the moves is not counted. Beside it, for scale, full chess with random legal moves, where installed:
PettingZoo's ``chess_v6`` and pgx with 1,024 boards (``pip install pettingzoo pygame chess pgx jax``; they are in no
extra, since the package chess, which PettingZoo's game imports, is under the GPL). There a step is one side's move.

Times are the process's CPU time, so that a busy machine disturbs less, and the wall's for a GPU; medians over rounds in
which every contestant runs once, and the best round, which tells most about a busy machine. ``--device`` plays the
games on another device.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rlhf_lab_chess import KRK
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.games import Games
from rlhf_lab_chess.positions import attacks, positions
from rlhf_lab_chess.tables import solved

SIZES = (64, 1024, 16_384)
LIMIT = 50  # moves after which a game is truncated
Contestant = Callable[[], tuple[int, float]]  # plays, and returns steps and seconds


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Return steps per second of each round after one that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, play in contestants.items():
            steps, seconds = play()
            if round_:
                rates[name].append(steps / seconds)
    return rates


def of_games(envs: int, device: str, compiled: bool | None = None) -> Contestant:
    games = Games(KRK(board=8).world(), (envs,), LIMIT, device, compiled)
    generator = torch.Generator(device).manual_seed(0)
    on_cpu = device == "cpu"

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)

    def clock() -> float:
        if on_cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    games.begin(numbers(envs))
    steps = max(16, 300_000 // envs)  # enough for the tables to come into the caches, as in a long run

    def play() -> tuple[int, float]:
        seconds, legal = 0.0, games.legal()
        for _ in range(steps):
            actions = (torch.rand(legal.shape, generator=generator, device=device) * legal).argmax(-1)
            answers, starts = numbers(envs), numbers(envs)
            began = clock()
            played = games.step(actions, answers)
            games.begin(starts, played.terminated | played.truncated)
            legal = games.legal()
            seconds += clock() - began
        return steps * envs, seconds

    return play


def of_gymnasium(envs: int) -> Contestant:
    env = gymnasium.make_vec("rlhf_lab/KRK-v0", envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    native: Any = env.unwrapped
    generator = np.random.default_rng(0)

    def play() -> tuple[int, float]:
        seconds = 0.0
        for _ in range(8):
            ids = native.legal_ids()
            chosen = (generator.random(ids.shape) * (ids >= 0)).argmax(1)
            actions = ids[np.arange(envs), chosen].astype(np.int64)
            began = time.process_time()
            env.step(actions)
            seconds += time.process_time() - began
        return 8 * envs, seconds

    return play


def pettingzoo() -> Contestant:
    from pettingzoo.classic import chess_v6

    env = chess_v6.env()
    env.reset(seed=0)
    generator = np.random.default_rng(0)

    def play() -> tuple[int, float]:
        seconds = 0.0
        for _ in range(200):
            began = time.process_time()
            observation, _, terminated, truncated, _ = env.last()
            if terminated or truncated:
                env.reset()
                observation = env.last()[0]
            seconds += time.process_time() - began
            action = generator.choice(np.flatnonzero(observation["action_mask"]))
            began = time.process_time()
            env.step(action)
            seconds += time.process_time() - began
        return 200, seconds

    return play


def pgx(boards: int) -> Contestant:
    import jax
    import pgx
    from pgx.experimental import auto_reset

    env = pgx.make("chess")
    restarting = auto_reset(env.step, env.init)

    def move(state: Any, key: Any) -> Any:
        weights = jax.numpy.where(state.legal_action_mask, 0.0, -jax.numpy.inf)
        return restarting(state, jax.random.categorical(key, weights), key)

    step = jax.jit(jax.vmap(move))
    key = jax.random.PRNGKey(0)
    state = jax.jit(jax.vmap(env.init))(jax.random.split(key, boards))

    def play() -> tuple[int, float]:
        nonlocal state, key
        key, own = jax.random.split(key)
        began = time.process_time()
        state = jax.block_until_ready(step(state, jax.random.split(own, boards)))
        return boards, time.process_time() - began

    return play


def rates(console: Console, rounds: int, device: str) -> None:
    contestants: dict[str, Contestant] = {f"games, {n:,} at a time": of_games(n, device) for n in SIZES}
    asked = {"games, 1,024 at a time": 4e6} if device == "cpu" else {}
    if device == "cpu":
        contestants["games, 1,024, gathers of tensors"] = of_games(1024, device, compiled=False)
        contestants["Gymnasium's vector environment, 1,024"] = of_gymnasium(1024)
        if all(find_spec(name) for name in ("pettingzoo", "pygame", "chess")):
            contestants["PettingZoo chess_v6"] = pettingzoo()
        else:
            console.print("PettingZoo's chess is not installed: pip install pettingzoo pygame chess")
        if find_spec("pgx"):
            contestants["pgx chess, 1,024"] = pgx(1024)
        else:
            console.print("pgx is not installed: pip install pgx jax")
    found = measure(contestants, rounds)
    own = statistics.median(found["games, 1,024 at a time"])
    table = Table("KRK on 8 x 8, and full chess", "steps/s", "best round", "asked", "our 1,024 games are")
    for name, each in found.items():
        median = statistics.median(each)
        due = f"{asked[name]:,.0f}" if name in asked else ""
        table.add_row(name, f"{median:,.0f}", f"{max(each):,.0f}", due, f"{own / median:,.1f}x as fast")
    console.print(table)


def tables(console: Console, rounds: int) -> None:
    """Time the endings with an empty cache folder, and with the one that this filled."""
    names = ("KQK", "KRK", "KPK")
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
                for kept in (False, True):
                    for made in (attacks, positions, solved, ending):
                        made.cache_clear()
                    began = time.process_time()
                    ending(name, 8)
                    seconds.setdefault((name, kept), []).append(time.process_time() - began)
    table = Table("tables on 8 x 8", "build, s", "asked", "from the cache, s")
    for name in names:
        built, read = (statistics.median(seconds[name, kept]) for kept in (False, True))
        table.add_row(name, f"{built:.2f}", "< 5", f"{read:.2f}")
    console.print(table)


def exact(console: Console, rounds: int) -> None:
    questions: dict[str, Callable[[Any], object]] = {
        "V of the uniform policy": lambda world: world.state_values(world.uniform_policy()),
        "V*": lambda world: world.optimal_values(),
        "policy gradient": lambda world: world.policy_gradient(world.uniform_policy()),
    }
    worlds = {side: KRK(board=side, gamma=0.99).world() for side in (4, 6, 8)}
    table = Table("KRK, γ = 0.99", *(f"{side} x {side}, s" for side in worlds))
    for name, ask in questions.items():
        seconds: dict[int, list[float]] = {side: [] for side in worlds}
        for _ in range(rounds):
            for side, world in worlds.items():
                fresh = replace(world)  # without what the last answer left behind
                began = time.process_time()
                ask(fresh)
                seconds[side].append(time.process_time() - began)
        table.add_row(name, *(f"{statistics.median(each):.3f}" for each in seconds.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="where games are played; other than cpu: only those")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console()
    if options.device == "cpu":
        tables(console, min(options.rounds, 3))
        exact(console, min(options.rounds, 3))
    rates(console, options.rounds, options.device)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    console.print(f"processes at work, over 1, 5 and 15 minutes: {load} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
