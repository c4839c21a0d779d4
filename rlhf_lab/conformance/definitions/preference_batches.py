"""Definitions of record of preference losses that need more than the numbers of a row's responses.

That is: another likelihood, a reference point of the whole batch, or tokens. Throughout h is log(π/π_ref) of the chosen
response less that of the rejected one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.candidatewise import Row, candidatewise
from rlhf_lab.conformance.definitions.definition import Definition, definition
from rlhf_lab.conformance.definitions.responses import (
    BETA,
    Slopes,
    coin,
    log_ratios,
    record,
)
from rlhf_lab.types import Rankings, Scores

__all__ = ["DEFINITIONS"]


def _likelihood(batch: Rankings, beta: float, likelihood: Any) -> Mapping[str, Tensor]:
    """Apply the definition of record of a reward model's likelihood to β times the log-ratio.

    That of a component without a choice of likelihoods is Plackett and Luce's, for pairs Bradley and Terry's.
    """
    name = "plackett_luce" if likelihood is None else likelihood.implements
    if name is None:
        return {}
    of = definition("reward_model", name)
    assert batch.ref_log_probs is not None
    rewards = beta * (batch.log_probs.detach() - batch.ref_log_probs)
    labels = {name: getattr(batch, name) for name in ("valid", *of.reads)}
    found = dict(of.answer(Scores(rewards, **labels), **_parameters(likelihood, of)))
    return {"dL/dlog_probs": beta * found.pop("dL/dscores"), **found}


def _parameters(component: Any, of: Definition) -> dict[str, Any]:
    """Return the parameters of a definition as a component has them."""
    own = {name: name if component is None else component.conventions.get(name, name) for name in of.parameters}
    return {name: getattr(component, str(own[name]), default) for name, default in of.parameters.items()}


def _kto(batch: Rankings, beta: float, lam_d: float, lam_u: float) -> Mapping[str, Tensor]:
    assert batch.valid is not None
    assert batch.mismatched_log_probs is not None and batch.mismatched_ref_log_probs is not None
    found = (batch.mismatched_log_probs.detach() - batch.mismatched_ref_log_probs)[batch.valid].tolist()
    z = max(0.0, math.fsum(found) / max(len(found), 1))

    def each(row: Row) -> Slopes:
        losses, slopes = [], []
        for a, desirable in zip(log_ratios(row), row.each["desirable"], strict=True):
            good = coin(beta * (a - z))
            losses.append(lam_d * good.tails if desirable else lam_u * good.heads)
            slopes.append((-lam_d if desirable else lam_u) * beta * good.heads * good.tails)
        return math.fsum(losses) / len(losses), slopes

    answer = dict(candidatewise(each, at_least=1, field="log_probs")(batch))
    unmoved = torch.zeros_like(batch.mismatched_log_probs)
    return {**answer, "weights": batch.valid.sum(-1).double(), "dL/dmismatched_log_probs": unmoved}


def _tdpo(batch: Rankings, beta: float, alpha: float, stop_gradient: bool) -> Mapping[str, Tensor]:
    def told(row: Row) -> tuple[float, float]:
        first, second = row.each["token_kl"]
        ratios = [own - ref for own, ref in zip(row.each["log_probs"], row.each["ref_log_probs"], strict=True)]
        preference = coin(beta * (ratios[0] - ratios[1] - alpha * (second - first)))
        return preference.heads_surprise, beta * preference.tails

    def response(row: Row) -> Slopes:
        loss, pull = told(row)
        return loss, (-pull, pull)

    def divergence(row: Row) -> Slopes:
        loss, pull = told(row)
        return loss, (0.0 if stop_gradient else -alpha * pull, alpha * pull)

    return {**candidatewise(divergence, field="token_kl")(batch), **candidatewise(response, field="log_probs")(batch)}


def _ld_dpo(batch: Rankings, beta: float, alpha: float) -> Mapping[str, Tensor]:
    """Add up tokens one by one, each with its weight."""
    assert batch.token_log_probs is not None and batch.token_ref_log_probs is not None
    assert batch.token_valid is not None and batch.valid is not None
    slopes = torch.zeros_like(batch.token_log_probs)
    found = (batch.token_log_probs.detach() - batch.token_ref_log_probs).tolist()
    rows = range(len(found))

    def each(row: Row) -> Slopes:
        n = int(row.scores[0])
        places = [[t for t, counts in enumerate(tokens) if counts] for tokens in batch.token_valid[n].tolist()]  # type: ignore[index]
        shorter = min(map(len, places))
        weights = [{t: 1.0 if i < shorter else alpha for i, t in enumerate(at)} for at in places]
        a, b = (math.fsum(w * found[n][k][t] for t, w in weights[k].items()) for k in (0, 1))
        preference = coin(beta * (a - b))
        for k, sign in ((0, -1), (1, 1)):
            for t, w in weights[k].items():
                slopes[n, k, t] = sign * w * beta * preference.tails
        return preference.heads_surprise, (0.0, 0.0)

    numbered = torch.tensor(rows, dtype=torch.float64)[:, None].expand_as(batch.log_probs)
    answer = candidatewise(each)(Scores(numbered.contiguous(), valid=batch.valid))
    return {"L": answer["L"], "weights": answer["weights"], "dL/dtoken_log_probs": slopes}


DEFINITIONS: list[Definition] = [
    record(
        "dpo",
        "L = −log σ(β h), or what another likelihood says of the rewards β log(π/π_ref)",
        "Rafailov et al. 2023, eq. 7",
        _likelihood,
        {**BETA, "likelihood": None},
    ),
    record(
        "kto",
        "L = the mean over a row's responses of lam_d (1 − σ(β (a − z))) where desirable, else lam_u σ(β (a − z)), "
        "with z = max(0, mean of log(π/π_ref) over mismatched responses) without gradient; weight: how many they are",
        "Ethayarajh et al. 2024, eq. 7 and 8",
        _kto,
        {**BETA, "lam_d": 1.0, "lam_u": 1.0},
        "ref_log_probs mismatched_log_probs mismatched_ref_log_probs desirable",
    ),
    record(
        "tdpo",
        "L = −log σ(β (h − alpha (D_l − D_w))), D = sum of KL(π_ref ‖ π) over a response's steps; no gradient of D_w "
        "with stop_gradient",
        "Zeng et al. 2024, eq. 17 and 18",
        _tdpo,
        {**BETA, "alpha": 0.5, "stop_gradient": True},
        "ref_log_probs token_kl",
    ),
    record(
        "ld_dpo",
        "L = −log σ(β (a − b)) of sums over tokens, those beyond the length of the shorter response alpha times",
        "Liu et al. 2024 (arXiv 2409.06411), eq. 11",
        _ld_dpo,
        {**BETA, "alpha": 0.5},
        "token_log_probs token_ref_log_probs token_valid",
    ),
]
