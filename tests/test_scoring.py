"""Scores of whole responses: sums over tokens, references, divergences, rewards, gradients and isolation of runs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies import TabularAutoregressive
from rlhf_lab_policies.actor import StackedActor


def token_world(vocabulary: int = 3, length: int = 3, prompts: int = 2) -> Spaces:
    """Return the spaces of a world of token sequences, in the numbering that environments of this kind have."""
    prefixes = [p for t in range(length) for p in itertools.product(range(vocabulary), repeat=t)]
    rows = [(vocabulary + x, *p, *[-1] * (length - len(p))) for x in range(prompts) for p in prefixes]
    rows.append((-1,) * (1 + length))
    return Spaces(vocabulary, states=len(rows), prefixes=len(prefixes), tokens=torch.tensor(rows))


def candidates(spaces: Spaces, prompts: list[int], responses: list[list[tuple[int, ...]]], runs: int = 2) -> Candidates:
    """Return one row per prompt with its responses, the same for all runs; junk stands where no token counts."""
    number = {tuple(row): i for i, row in enumerate(spaces.tokens.tolist())}
    length = spaces.tokens.shape[1] - 1
    shape = (len(prompts), len(responses[0]), length)
    prefixes, tokens = torch.full(shape, 10**6), torch.full(shape, -7)
    counted = torch.zeros(shape, dtype=torch.bool)
    for i, j in itertools.product(*map(range, shape[:2])):
        for t, token in enumerate(responses[i][j]):
            before = (spaces.actions + prompts[i], *responses[i][j][:t])
            prefixes[i, j, t] = number[before + (-1,) * (1 + length - len(before))] - prompts[i] * spaces.prefixes
            tokens[i, j, t] = token
            counted[i, j, t] = True
    inputs = {
        "prompts": torch.tensor(prompts) * spaces.prefixes, "prefixes": prefixes, "tokens": tokens, "counted": counted,
    }  # fmt: skip
    return Candidates({k: x.expand(runs, *x.shape) for k, x in inputs.items()}, counted.sum(-1).expand(runs, -1, -1))


def every_response(spaces: Spaces, prompts: int = 2) -> Candidates:
    """Return all responses of full length of every prompt side by side."""
    length = spaces.tokens.shape[1] - 1
    responses = list(itertools.product(range(spaces.actions), repeat=length))
    return candidates(spaces, list(range(prompts)), [responses] * prompts)


@torch.no_grad()
def by_hand(actor: StackedActor, asked: Candidates) -> Tensor:
    """Return the sums over tokens of the log-probabilities of one state at a time, ``[runs, rows, k]``."""
    x, prefixes, tokens, counted = asked.inputs.values()
    sums = torch.zeros(counted.shape[:-1], dtype=torch.float64)
    for at in counted.nonzero().tolist():
        run, row, k, _ = at
        state = int(x[run, row] + prefixes[tuple(at)])
        one = torch.full((counted.shape[0], 1), state)
        sums[run, row, k] += float(actor.action_log_probs(one)[run, 0, tokens[tuple(at)]])
    return sums


def test_a_response_s_score_is_the_sum_over_its_tokens() -> None:
    spaces = token_world()
    actor = TabularAutoregressive(scale=1.0, precision="float64").build(spaces, 2, Streams([3, 1]))
    asked = candidates(spaces, [1, 0, 1], [[(0, 1, 2), (2,)], [(1, 1), (0, 0, 0)], [(2, 2), (1,)]])
    assert torch.allclose(actor.score(asked).log_probs, by_hand(actor, asked), rtol=1e-13)


def test_the_probabilities_of_all_responses_sum_to_one() -> None:
    spaces = token_world()
    actor = TabularAutoregressive(scale=1.0, precision="float64").build(spaces, 2, Streams([3, 1]))
    found = actor.score(every_response(spaces)).log_probs.exp().sum(-1)
    assert torch.allclose(found, torch.ones(2, 2, dtype=torch.float64), rtol=1e-13)
