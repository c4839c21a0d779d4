"""What is watched while a policy learns from rankings: its likelihoods, and how its implicit reward ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates, best_and_worst
from rlhf_lab.training.step import per_run

__all__ = ["ranking_metrics"]


def ranking_metrics(candidates: Candidates, log_probs: Tensor, ref_log_probs: Tensor | None) -> dict[str, Tensor]:
    """Return ``[runs]`` each, means over rows with the rows' weights; NaN where no row tells.

    - ``chosen_log_prob``, ``rejected_log_prob``: log-likelihood of the best and of the worst responses;
    - ``margin``: difference of the mean implicit reward log(pi / pi_ref) of best and worst responses, in nats; without
      a reference of log pi;
    - ``accuracy``: share of the rows that hold both whose best responses' reward exceeds the worst ones'; equal ones
      count half.
    """
    log_probs = log_probs.detach()
    reward = log_probs if ref_log_probs is None else log_probs - ref_log_probs
    parts = [part.to(log_probs) for part in best_and_worst(candidates)]
    counts = [part.sum(-1) for part in parts]
    weights = torch.ones_like(counts[0]) if candidates.weights is None else candidates.weights.to(log_probs)
    totals = [per_run(weights * (count > 0)) for count in counts]

    def means(x: Tensor) -> list[Tensor]:
        """Return the mean of ``x [runs, rows, k]`` in each row over its best and over its worst responses."""
        kept = x if candidates.valid is None else x.masked_fill(~candidates.valid, 0)
        return [(part * kept).sum(-1) / count.clamp(min=1) for part, count in zip(parts, counts, strict=True)]

    said, rewards = means(log_probs), means(reward)
    chosen, rejected = (per_run(weights * x) / total for x, total in zip(said, totals, strict=True))
    best, worst = (per_run(weights * x) / total for x, total in zip(rewards, totals, strict=True))
    both = weights * ((counts[0] > 0) & (counts[1] > 0))
    right = (rewards[0] > rewards[1]).to(both) + 0.5 * (rewards[0] == rewards[1])
    return {
        "chosen_log_prob": chosen,
        "rejected_log_prob": rejected,
        "margin": best - worst,
        "accuracy": per_run(both * right) / per_run(both),
    }
