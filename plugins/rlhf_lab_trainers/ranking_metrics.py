"""What is watched while rankings are learned: how the best responses of each row stand against the worst ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates, best_and_worst
from rlhf_lab.training.step import per_run_all

__all__ = ["Contrast", "ranking_metrics"]


class Contrast:
    """The best against the worst responses of each row, which counts by its weight ``[runs, rows]``."""

    def __init__(self, candidates: Candidates, dtype: torch.dtype) -> None:
        own = candidates.weights
        self.weights = torch.ones(candidates.lengths.shape[:2], dtype=dtype) if own is None else own.to(dtype)
        self._valid = candidates.valid
        self._parts: list[Tensor] | None = None
        self._counted = [self.weights, self.weights]  # of the rows that have a best, and a worst one
        labels = (candidates.valid, candidates.desirable, candidates.ranks, candidates.targets)
        if candidates.lengths.shape[-1] > 1 and all(label is None for label in labels):
            return  # mere order, as usual: the first is the best and the last the worst
        self._parts = [part.to(dtype) for part in best_and_worst(candidates)]
        self._counts = [part.sum(-1) for part in self._parts]
        self._counted = [self.weights * (count > 0) for count in self._counts]

    @property
    def both(self) -> Tensor:
        """The weight ``[runs, rows]`` of the rows that hold a best and a worst response, 0 of the others."""
        return self._counted[1] if self._parts is None else self._counted[0] * (self._counts[1] > 0)

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``[runs, rows]``: the mean of ``x [runs, rows, k]`` over a row's best and over its worst responses."""
        if self._parts is None:
            return x[..., 0], x[..., -1]
        kept = x if self._valid is None else x.masked_fill(~self._valid, 0)
        best, worst = ((p * kept).sum(-1) / n.clamp(min=1) for p, n in zip(self._parts, self._counts, strict=True))
        return best, worst

    def summary(self, compared: str, **rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return ``[runs]``: weighted means ``NAME_best`` and ``NAME_worst`` of what ``rows`` gave, and ``accuracy``.

        Means are over the rows that hold such responses. Accuracy is the share of the rows with both in which the best
        of ``compared`` is the larger; equal ones count half. NaN where no row tells.
        """
        first, second = self._counted
        both = self.both
        best, worst = rows[compared]
        right = (best > worst).to(both) + 0.5 * (best == worst)
        parts = {"first": first, "second": second, "both": both, "right": both * right}
        for name, (best, worst) in rows.items():
            parts |= {f"{name}_best": first * best, f"{name}_worst": second * worst}
        sums = per_run_all(parts)
        means = {f"{name}_best": sums[f"{name}_best"] / sums["first"] for name in rows}
        means |= {f"{name}_worst": sums[f"{name}_worst"] / sums["second"] for name in rows}
        return means | {"accuracy": sums["right"] / sums["both"]}


def ranking_metrics(candidates: Candidates, log_probs: Tensor, ref_log_probs: Tensor | None) -> dict[str, Tensor]:
    """Return ``[runs]`` each, means over rows with the rows' weights; NaN where no row tells.

    - ``chosen_log_prob``, ``rejected_log_prob``: log-likelihood of the best and of the worst responses;
    - ``margin``: difference of the mean implicit reward log(pi / pi_ref) of best and worst responses, in nats; without
      a reference of log pi;
    - ``accuracy``: share of the rows that hold both whose best responses' reward exceeds the worst ones'; equal ones
      count half.
    """
    log_probs = log_probs.detach()
    contrast = Contrast(candidates, log_probs.dtype)
    rewards = log_probs if ref_log_probs is None else log_probs - ref_log_probs
    found = contrast.summary("reward", said=contrast.rows(log_probs), reward=contrast.rows(rewards))
    return {
        "chosen_log_prob": found["said_best"],
        "rejected_log_prob": found["said_worst"],
        "margin": found["reward_best"] - found["reward_worst"],
        "accuracy": found["accuracy"],
    }
