"""How well a reward model tells pairs of responses apart where the true reward of all of them is known."""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.worlds.sequences import SequenceWorld

__all__ = ["MAX_PAIRS", "ExactPairs"]

MAX_PAIRS: Final = 32_768  # per run: those of 256 responses to a prompt, or of 128 to each of four


class ExactPairs:
    """All pairs of two different responses to a prompt, each as likely as the others, labelled by the true reward.

    A label is not drawn: the first one wins with its Bradley-Terry probability. Prompts count by their probability.
    Where there are more than ``MAX_PAIRS``, they are those of as many responses to each prompt as have no more, drawn
    once per run without replacement.
    """

    def __init__(self, world: SequenceWorld, streams: Streams, bins: int) -> None:
        self._bins = bins
        count, responses = world.reward.shape[-2:]
        kept = min(responses, (1 + math.isqrt(1 + 8 * (MAX_PAIRS // count))) // 2)  # m (m - 1) / 2 pairs of m responses
        self._kept: Tensor | None = None
        if kept < responses:
            self._kept = streams["pairs"].uniforms(0, count, responses).argsort(-1)[..., : max(2, kept)]
        self._true = self._of_kept(world.reward)
        self._weights = world.prompt_probs / math.comb(self._true.shape[-1], 2)
        self._best, _ = self._measured(self._true)

    def metrics(self, scores: Tensor) -> dict[str, Tensor]:
        """Return what ``scores [runs, x, y]`` are worth, ``[runs]`` each.

        ``exact_accuracy`` is the probability that the response with the higher score wins, ``best_accuracy`` that of
        the true reward, which nothing exceeds; ``exact_calibration_error``: see ``Calibration``. NaN where a score is.
        """
        accuracy, error = self._measured(self._of_kept(scores.double()))
        return {"exact_accuracy": accuracy, "best_accuracy": self._best, "exact_calibration_error": error}

    @property
    def count(self) -> int:
        """How many pairs each run has."""
        return len(self._weights) * math.comb(self._true.shape[-1], 2)

    def _of_kept(self, x: Tensor) -> Tensor:
        return x if self._kept is None else x.gather(-1, self._kept)

    def _measured(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return accuracy and calibration error, ``[runs]`` each."""
        found = np.zeros((2, len(scores)))
        said, true, weights = (x.contiguous().numpy() for x in (scores, self._true, self._weights))
        _measure(said, true, weights, np.empty(self._bins), found)
        accuracy, error = torch.from_numpy(found)
        return accuracy, error


@numba.njit(cache=True)
def _measure(scores: Any, true: Any, weights: Any, excess: Any, found: Any) -> None:
    runs, prompts, responses = scores.shape
    bins = len(excess)
    for run in range(runs):
        excess[:] = 0.0
        for x in range(prompts):
            for i in range(responses):
                for j in range(i):
                    difference = scores[run, x, i] - scores[run, x, j]
                    sure = 1.0 / (1.0 + math.exp(-abs(difference)))
                    true_difference = true[run, x, i] - true[run, x, j]
                    if difference < 0:
                        true_difference = -true_difference
                    right = 1.0 / (1.0 + math.exp(-true_difference)) if difference != 0 else 0.5
                    found[0, run] += weights[x] * right
                    if math.isnan(sure):
                        found[:, run] = math.nan
                    else:
                        excess[min(int((2.0 * sure - 1.0) * bins), bins - 1)] += weights[x] * (sure - right)
        found[1, run] += np.abs(excess).sum()
