"""Scoring whole responses, gradient included, against a plain copy and against asking token by token.

    OMP_NUM_THREADS=1 python benchmarks/scoring.py [--runs 50] [--rows 256] [--vocabulary 4] [--length 4] [--prompts 1]

Each row of a preference batch holds two responses. Timed are forward and backward passes of ``score``: of the policy
alone, with a reference, and with the KL to it at every step; of ``rewards``, the same weights read as a reward model;
and of ``evaluate``, what the online trainer asks of the same tokens: a distribution for each of them. The floors are
one ``copy_`` of the log-probabilities of all tokens, and one ``gather`` of them from a table together with its
gradient.

Times are the thread's CPU time, so that a busy machine disturbs less, and medians over rounds in which every contestant
runs once, after one that warms up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlhf_lab.components import Policy
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Trajectories
from rlhf_lab_policies import (
    MLP,
    LinearFeatures,
    LinearSoftmax,
    TabularAutoregressive,
    TabularSoftmax,
    Transformer,
)
from rlhf_lab_policies.actor import StackedActor
from rlhf_lab_sequences import Sequences
from rlhf_lab_sequences.responses import side_by_side

POLICIES: dict[str, Policy] = {
    "tabular_autoregressive": TabularAutoregressive(),
    "linear_features, bigram": LinearFeatures(),
    "linear_features, 32 random": LinearFeatures(features="random", size=32),
    "transformer, 1 layer of 32": Transformer(),
    "tabular_softmax": TabularSoftmax(critic=False),
    "linear_softmax": LinearSoftmax(critic=False),
    "mlp, 64 and 64": MLP(critic=False),
}
COPY, LOOK_UP = "copy of the log-probabilities", "one look-up of them and its gradient"
Calls = dict[str, Callable[[], object]]


def responses(options: argparse.Namespace) -> tuple[Spaces, Candidates, Samples]:
    """Return pairs of random responses, and the same as trajectories."""
    environment = Sequences(vocabulary=options.vocabulary, length=options.length, prompts=options.prompts)
    built = environment.build(options.runs, 1, Streams(range(options.runs)))
    generator = torch.Generator().manual_seed(0)
    rows = (options.runs, options.rows)
    prompts = torch.randint(options.prompts, rows, generator=generator)
    asked = side_by_side(built.tree, prompts, torch.randint(built.tree.responses, (*rows, 2), generator=generator))
    inputs = asked.inputs
    states = (inputs["prompts"][..., None, None] + inputs["prefixes"]).flatten(1, 2)
    valid = inputs["counted"].flatten(1, 2)
    no = torch.zeros_like(valid)
    steps = {"observations": states, "actions": inputs["tokens"].flatten(1, 2)}
    return built.spaces, asked, Samples(Trajectories(torch.zeros(valid.shape), no, no, valid), steps)


def floors(asked: Candidates, spaces: Spaces) -> Calls:
    """Return one copy of the tokens' log-probabilities, and one look-up of them by places that are known, and back."""
    counted = asked.inputs["counted"]
    source = torch.ones(counted.shape)
    target = torch.empty_like(source)
    table = torch.zeros(len(counted), (spaces.states or 0) * spaces.actions, requires_grad=True)
    places = torch.randint(table.shape[1], (len(counted), counted[0].numel()))
    return {
        COPY: lambda: target.copy_(source),
        LOOK_UP: lambda: torch.autograd.grad(table.gather(1, places).sum(), table),
    }


def calls(policy: Policy, spaces: Spaces, asked: Candidates, samples: Samples) -> Calls:
    """Return what is timed of a policy, each with its backward pass."""
    runs = len(samples.trajectories.valid)
    alone, kept = (cast("StackedActor", policy.build(spaces, runs, Streams(range(runs)))) for _ in range(2))
    kept.keep_reference()

    def back(actor: StackedActor, x: Tensor) -> object:
        parameters = [w for name, w in actor.named_parameters() if not name.startswith("critic")]
        return torch.autograd.grad(x.sum(), parameters)

    def with_kl() -> object:
        found = kept.score(asked, frozenset({"token_kl"}))
        return back(kept, found.log_probs + cast("Tensor", found.token_kl))

    return {
        "score": lambda: back(alone, alone.score(asked).log_probs),
        "with reference": lambda: back(kept, kept.score(asked).log_probs),
        "with KL": with_kl,
        "rewards": lambda: back(alone, alone.rewards(asked)),
        "evaluate": lambda: back(alone, alone.evaluate(samples).log_probs),
    }


def measure(contestants: Calls, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, call in contestants.items():
            start = time.thread_time()
            call()
            times[name].append((time.thread_time() - start) * 1000)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("runs", 50), ("rows", 256), ("vocabulary", 4), ("length", 4), ("prompts", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spaces, asked, samples = responses(options)

    columns = ("score", "with reference", "with KL", "rewards", "evaluate")
    contestants = floors(asked, spaces)
    for name, policy in POLICIES.items():
        timed = calls(policy, spaces, asked, samples)
        contestants |= {f"{name}: {column}": timed[column] for column in columns}
    found = measure(contestants, options.rounds)
    tokens = asked.inputs["counted"].sum()
    table = Table(
        "policy", *columns, "score to a copy", title=f"Milliseconds for {tokens:,} tokens, {spaces.states} states"
    )
    for name in POLICIES:
        times = [found[f"{name}: {column}"] for column in columns]
        table.add_row(name, *(f"{x:.2f}" for x in times), f"{times[0] / found[COPY]:.0f}x")
    console = Console()
    console.print(table)
    console.print(f"{COPY}: {found[COPY]:.3f} ms; {LOOK_UP}: {found[LOOK_UP]:.2f} ms")


if __name__ == "__main__":
    main()
