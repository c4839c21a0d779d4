"""Worlds of token sequences made by hand, responses in them, and every policy on them: for tests of scoring."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.components import Policy
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies import (
    MLP,
    LinearFeatures,
    LinearSoftmax,
    TabularAutoregressive,
    TabularSoftmax,
    Transformer,
)
from rlhf_lab_policies.actor import StackedActor

Response = tuple[int, ...]

OWN: dict[str, Policy] = {  # made for such worlds
    "tabular": TabularAutoregressive(scale=1.0),
    "features-token": LinearFeatures(features="token", scale=1.0),
    "features-position": LinearFeatures(features="position", scale=1.0, critic=True),
    "features-bigram": LinearFeatures(features="bigram", scale=1.0, per_prompt=True),
    "features-random": LinearFeatures(features="random", size=5, scale=1.0),
    "features-table": LinearFeatures(features="table", table=((1.0,), (0.5,), (2.0,)), scale=1.0),
    "transformer": Transformer(width=6, heads=2, layers=2, scale=1.0, critic=True),
}
OTHERS: dict[str, Policy] = {  # for any finite world
    "any-tabular": TabularSoftmax(),
    "any-linear": LinearSoftmax(),
    "any-mlp": MLP(hidden=(7,)),
}
POLICIES = OWN | OTHERS
LINEAR = [name for name in OWN if name.startswith("features")]


def token_world(vocabulary: int = 3, length: int = 3, prompts: int = 2) -> Spaces:
    """Return the spaces of a world of token sequences, numbered as in such environments."""
    prefixes = [p for t in range(length) for p in itertools.product(range(vocabulary), repeat=t)]
    rows = [(vocabulary + x, *p, *[-1] * (length - len(p))) for x in range(prompts) for p in prefixes]
    rows.append((-1,) * (1 + length))
    return Spaces(vocabulary, states=len(rows), prefixes=len(prefixes), tokens=torch.tensor(rows))


WORLD = token_world()


def make(name: str, seeds: Sequence[int] = (3, 1), world: Spaces = WORLD) -> StackedActor:
    """Return an actor in float64 without symmetries: noise is added to all weights, those at 0 too."""
    actor = POLICIES[name].build(world, len(seeds), Streams(seeds))
    assert isinstance(actor, StackedActor)
    with torch.no_grad():
        for key, parameter in actor.named_parameters():
            parameter += 0.5 * Streams(seeds)["test"][key].normals(0, *parameter.shape[1:]).to(parameter)
    return actor.double()


def changed(name: str, **fields: Any) -> Policy:
    """Return the policy with some of its fields changed."""
    policy = POLICIES[name]
    return type(policy).model_validate({k: x for k, x in policy.model_dump().items() if k != "name"} | fields)


def state_of(world: Spaces, prompt: int, prefix: Response) -> int:
    """Return the number of a state, looked up in the table of tokens."""
    row = (world.actions + prompt, *prefix) + (-1,) * (world.tokens.shape[1] - 1 - len(prefix))
    return world.tokens.tolist().index(list(row))


def candidates(world: Spaces, prompts: Sequence[int], responses: Sequence[Sequence[Response]], junk: int = 7**9):
    """Return a row per prompt, ``[2, rows, k]``, both runs alike, with ``junk`` where no token counts."""
    shape = (len(prompts), len(responses[0]), world.tokens.shape[1] - 1)
    prefixes, tokens = torch.full(shape, junk), torch.full(shape, -junk)
    counted = torch.zeros(shape, dtype=torch.bool)
    for i, j in itertools.product(*map(range, shape[:2])):
        for t, token in enumerate(responses[i][j]):
            prefixes[i, j, t] = state_of(world, prompts[i], responses[i][j][:t]) - prompts[i] * world.prefixes
            tokens[i, j, t] = token
            counted[i, j, t] = True
    first = torch.tensor(prompts) * world.prefixes
    inputs = {"prompts": first, "prefixes": prefixes, "tokens": tokens, "counted": counted}
    return Candidates({k: x.expand(2, *x.shape) for k, x in inputs.items()}, counted.sum(-1).expand(2, -1, -1))


ASKED = candidates(WORLD, [1, 0, 1], [[(0, 1, 2), (2,)], [(1, 1), (0, 0, 0)], [(2, 2), (1,)]])


def every_response(world: Spaces, eos: int | None = None) -> Candidates:
    """Return all responses to both prompts side by side; those with ``eos`` end there."""
    length = world.tokens.shape[1] - 1
    full = itertools.product(range(world.actions), repeat=length)
    cut = {y[: y.index(eos) + 1] if eos in y else y for y in full}
    return candidates(world, [0, 1], [sorted(cut)] * 2)


def random_candidates(world: Spaces, seeds: Sequence[int], rows: int) -> Candidates:
    """Return responses of random length that depend on each run's seed alone."""
    streams, length = Streams(seeds)["candidates"], world.tokens.shape[1] - 1
    prompts = (streams["prompts"].uniforms(0, rows) * ((len(world.tokens) - 1) // world.prefixes)).long()
    tokens = (streams["tokens"].uniforms(0, rows, 2, length) * world.actions).long()
    prefixes = torch.zeros_like(tokens)
    for t in range(1, length):
        prefixes[..., t] = prefixes[..., t - 1] * world.actions + 1 + tokens[..., t - 1]
    ends = (streams["ends"].uniforms(0, rows, 2, 1) * length).long() + 1
    counted = torch.arange(length) < ends
    first = prompts * world.prefixes
    inputs = {"prompts": first, "prefixes": prefixes, "tokens": tokens, "counted": counted}
    return Candidates(inputs, ends[..., 0])


def steps(asked: Candidates) -> Iterator[tuple[tuple[int, int, int], int, int]]:
    """Yield the place ``(run, row, k)``, state and token of every counted token."""
    prompts, prefixes, tokens, counted = asked.inputs.values()
    for run, row, k, t in counted.nonzero().tolist():
        at = (run, row, k, t)
        yield at[:3], int(prompts[run, row] + prefixes[at]), int(tokens[at])


def whole_table(actor: StackedActor, world: Spaces = WORLD) -> Tensor:
    """Return the log-probabilities ``[runs, states, actions]``, detached."""
    runs = len(next(actor.parameters()))
    return actor.action_log_probs(torch.arange(len(world.tokens)).expand(runs, -1)).detach()
