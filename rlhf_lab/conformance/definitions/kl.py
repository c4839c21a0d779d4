"""Definitions of record of role kl: closed forms per step, with gradients by hand.

Written in u = π_ref / π and ρ = π / π_old, which is 1 without ``old_log_probs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.inputs import LogProbs
from rlhf_lab.conformance.kl_cases import far_apart, impossible_actions
from rlhf_lab.conformance.strategies import log_probs

__all__ = ["DEFINITIONS"]

Formula = Callable[[float, float, bool], tuple[float, float]]  # (log u, ρ, whether ρ is given) -> value, slope


def _k1(log_u: float, rho: float, given: bool) -> tuple[float, float]:
    return -rho * log_u, rho - rho * log_u if given else 1.0


def _k2(log_u: float, rho: float, given: bool) -> tuple[float, float]:
    return rho * log_u**2 / 2, -rho * log_u


def _k3(log_u: float, rho: float, given: bool) -> tuple[float, float]:
    u = math.exp(log_u)
    return rho * (u - 1 - log_u), -rho * log_u if given else 1 - u


def _absolute(log_u: float, rho: float, given: bool) -> tuple[float, float]:
    sign = math.nan if log_u == 0 else math.copysign(1, -log_u)  # any slope will do at the kink
    return rho * abs(log_u), rho * (sign + abs(log_u)) if given else sign


def _per_action(formula: Formula) -> Callable[[LogProbs], Mapping[str, Tensor]]:
    def answer(inputs: LogProbs) -> Mapping[str, Tensor]:
        shape = inputs.log_probs.shape
        policy, reference = inputs.log_probs.flatten().tolist(), inputs.ref_log_probs.flatten().tolist()
        given = inputs.old_log_probs is not None
        old = policy if inputs.old_log_probs is None else inputs.old_log_probs.flatten().tolist()
        found = [formula(r - p, math.exp(p - o), given) for p, r, o in zip(policy, reference, old, strict=True)]
        value, slope = (torch.tensor([pair[i] for pair in found], dtype=torch.float64).view(shape) for i in (0, 1))
        return {"KL": value, "dKL/dlog_probs": slope}

    return answer


def _full(inputs: LogProbs) -> Mapping[str, Tensor]:
    *shape, actions = inputs.log_probs.shape
    values, slopes = [], []
    policies, references = (x.reshape(-1, actions).tolist() for x in (inputs.log_probs, inputs.ref_log_probs))
    for policy, reference in zip(policies, references, strict=True):
        terms = [(math.exp(p), p - r) if p > -math.inf else (0.0, 0.0) for p, r in zip(policy, reference, strict=True)]
        divergence = math.fsum(chance * ratio for chance, ratio in terms)
        values.append(divergence)
        infinite = math.isinf(divergence)  # then it has no gradient
        slopes.append([math.nan if infinite else chance * (ratio - divergence) for chance, ratio in terms])
    return {
        "KL": torch.tensor(values, dtype=torch.float64).view(shape),
        "dKL/dlogits": torch.tensor(slopes, dtype=torch.float64).view(*shape, actions),
    }


# Without an older policy where they are far apart: the product of two such ratios cancels in a gradient.
_OF_ACTIONS: Final = st.one_of(log_probs(), far_apart(old=False))
_OF_DISTRIBUTIONS: Final = st.one_of(log_probs(distributions=True), far_apart(distributions=True), impossible_actions())


def _define(
    name: str, statement: str, reference: str, answer: Callable[[LogProbs], Mapping[str, Tensor]]
) -> Definition:
    cases = _OF_DISTRIBUTIONS if name == "full" else _OF_ACTIONS
    return Definition("kl", name, statement, reference, {}, answer, cases=cases)


_SCHULMAN = 'Schulman 2020, "Approximating KL divergence"'

DEFINITIONS: list[Definition] = [
    _define(
        "k1", "KL = ρ log(π/π_ref); ρ = π/π_old has a gradient, without π_old it is 1", _SCHULMAN, _per_action(_k1)
    ),
    _define(
        "k2",
        "KL = ρ ½ log²(π/π_ref); ρ = π/π_old has no gradient, without π_old it is 1",
        f"{_SCHULMAN}; gradient: Tang & Munos 2025",
        _per_action(_k2),
    ),
    _define(
        "k3",
        "KL = ρ (π_ref/π − 1 − log(π_ref/π)); ρ = π/π_old has a gradient, without π_old it is 1",
        f"{_SCHULMAN}; ρ: DeepSeek-AI 2025 (V3.2), section 3.1",
        _per_action(_k3),
    ),
    _define(
        "abs",
        "KL = ρ |log(π/π_ref)|; ρ = π/π_old has a gradient, without π_old it is 1",
        "a practice of RLHF code bases",
        _per_action(_absolute),
    ),
    _define("full", "KL = Σ_a π(a) log(π(a)/π_ref(a)), 0 where π(a) = 0", "Kullback & Leibler 1951", _full),
]
