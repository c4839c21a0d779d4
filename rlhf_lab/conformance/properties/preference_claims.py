"""What a preference loss may claim of how it depends on log-probabilities, and of the direction in which it pulls.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, w and l their log-probabilities, h = a −
b, L is the row's loss and g its gradient dL/dlog π.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any, Final

import torch

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.losses import gradient_of_its_value
from rlhf_lab.conformance.properties.response_answers import (
    FAR,
    at_ratios,
    at_the_reference,
    claim,
    dpo,
    lengths,
    pull,
    rate,
    ratios,
    slopes,
    swapped,
    whole_rows,
    with_policy,
)
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]

_SUMS: Final = ("log_probs", "ref_log_probs", "lengths")
_MULTIPLES: Final = (1.0, 8.0, FAR)  # of a case's log-ratios, up to where every sigmoid has reached its end
_OFFSETS: Final = (-1.5, -0.25, -3.0, -0.5)


def _log_two(subject: Subject, case: Rankings) -> None:
    due = torch.full_like(case.log_probs[:, 0], math.log(2))
    expect_equal(subject(at_the_reference(case)), {"L": due}, note="= log 2 at π = π_ref")


def _counts_once(subject: Subject, case: Rankings) -> None:
    answer = subject(case)
    expect_equal(answer, {"weights": torch.ones_like(answer["weights"])}, note="for a row without a missing response")
    component: Any = subject.component
    if component.most_candidates() == 2:
        alone = torch.tensor([True, False]).expand_as(case.log_probs).contiguous()
        found = subject(map_fields(case, lambda name, _, x: alone if name == "valid" else x))
        none = {symbol: torch.zeros_like(x) for symbol, x in found.items() if symbol.startswith("dL/d")}
        due = {"weights": torch.zeros_like(answer["weights"]), **none}
        expect_equal(found, due, note="where the rejected response is missing")


def _non_negative(subject: Subject, case: Rankings) -> None:
    answer = subject(case)
    expect_equal(answer, {"L": answer["L"].clamp(min=0)}, note="or more")


def _bounded(subject: Subject, case: Rankings) -> None:
    most = max(2.0 if not subject.has("lam_d") else subject.parameter("lam_d"), subject.parameter("lam_u", 0.0))
    for batch in (case, at_ratios(case, FAR * ratios(case))):
        answer = subject(batch)
        expect_equal(answer, {"L": answer["L"].clamp(0, most)}, note=f"within 0 and {most:g}, whatever the policy")


def _at_least_dpo(subject: Subject, case: Rankings) -> None:
    for times in _MULTIPLES:
        far = _spread(case, times)
        a = ratios(far)
        bound, answer = dpo(a[:, 0] - a[:, 1], subject.parameter("beta", 0.1))["L"], subject(far)
        note = f"= −log σ(β h) or more, with log-ratios {times:g} times as large"
        expect_equal(answer, {"L": torch.maximum(answer["L"], bound)}, note=note)


def _spread(case: Rankings, times: float) -> Rankings:
    """Return the batch with larger log-ratios of log-probabilities that are as high as before, and not above 0."""
    a = times * ratios(case)
    highest = case.log_probs + (-ratios(case)).clamp(min=0)
    due = {"log_probs": highest + a.clamp(max=0), "ref_log_probs": highest - a.clamp(min=0)}
    return map_fields(case, lambda name, _, x: due.get(name, x))


def _ratios_only(subject: Subject, case: Rankings) -> None:
    ratios(case)
    offsets = torch.tensor(_OFFSETS, dtype=torch.float64).repeat(case.log_probs.numel())[: case.log_probs.numel()]
    offsets = offsets.view(case.log_probs.shape)
    moved = map_fields(case, lambda name, _, x: x + offsets if name in ("log_probs", "ref_log_probs") else x)
    note = "as before policy and reference changed by the same number for each response"
    expect_equal(subject(moved), slopes(subject, case), note=note)


def _margin_only(subject: Subject, case: Rankings) -> None:
    level = -1.5 - 0.5 * torch.arange(len(case.log_probs)).to(case.log_probs)  # another one for each prompt
    moved = subject(with_policy(case, case.log_probs + level[:, None]))
    note = "as before log π of all responses to a prompt changed by a number of its own"
    expect_equal(moved, slopes(subject, case), note=note)


def _opposite(subject: Subject, case: Rankings) -> None:
    total = {"Σ g": pull(subject, case).sum(-1)}
    expect_equal(total, {"Σ g": torch.zeros_like(case.log_probs[:, 0])}, note="of a row")


def _alone(subject: Subject, case: Rankings) -> None:
    for other, name in ((1, "chosen"), (0, "rejected")):
        moved = torch.where(torch.arange(2) == other, case.log_probs - 1.5, case.log_probs)
        own = {"g": pull(subject, case)[:, 1 - other]}
        found = {"g": pull(subject, with_policy(case, moved))[:, 1 - other]}
        expect_equal(found, own, note=f"of the {name} response, as before log π of the other one fell by 1.5")


def _unit(subject: Subject, case: Rankings) -> None:
    beta = subject.parameter("beta", 0.1)
    far = map_fields(at_ratios(case, 4 * ratios(case)), lambda name, _, x: 4 * x if name == "token_kl" else x)
    wide = subject.of(beta=beta / 4)(far)
    due = {"L": subject(case)["L"], "dL/dlog_probs": pull(subject, case) / 4}
    expect_equal(wide, due, note="= L and g / 4, for β / 4 and log-ratios 4 times as large")


def _per_token(subject: Subject, case: Rankings) -> None:
    lengths(case)
    for longer, name in ((0, "chosen"), (1, "rejected")):
        times = torch.where(torch.arange(2) == longer, 2, 1)
        twice = map_fields(case, lambda field, _, x, times=times: x * times.to(x.dtype) if field in _SUMS else x)  # type: ignore[misc]
        due = {"L": subject(case)["L"], "dL/dlog_probs": pull(subject, case) / times}
        expect_equal(
            subject(twice), due, note=f"= L and a half of its g, with every token of the {name} response twice"
        )


def _orders_sum_to_one(subject: Subject, case: Rankings) -> None:
    k = case.log_probs.shape[-1]
    losses = [subject(_reordered(case, list(order)))["L"] for order in permutations(range(k))]
    total = torch.stack(losses).neg().exp().sum(0)
    expect_equal({"Σ exp(−L)": total}, {"Σ exp(−L)": torch.ones_like(total)}, note="over every order")


def _reordered(case: Rankings, order: list[int]) -> Rankings:
    return map_fields(case, lambda _, axes, x: x[:, order] if axes in ("same", "token") else x)


def _flips(subject: Subject, case: Rankings) -> None:
    e, a = rate(subject), ratios(case)
    right, wrong = slopes(subject, case), slopes(subject, swapped(case))
    mean = {"L": wrong["L"] * e + right["L"] * (1 - e)}
    mean["dL/dlog_probs"] = (1 - e) * right["dL/dlog_probs"] + e * wrong["dL/dlog_probs"].flip(-1)
    due = dpo(a[:, 0] - a[:, 1], subject.parameter("beta", 0.1))
    expect_equal(mean, due, note=f"by dpo, in expectation over labels of which {e:g} are flipped")


def _best_only(subject: Subject, case: Rankings) -> None:
    others = torch.arange(case.log_probs.shape[-1]) > 0
    moved = with_policy(case, torch.where(others, 2 * case.log_probs - 1, case.log_probs))
    before = slopes(subject, case)
    expect_equal(subject(moved), before, note="as before log π of all but the best changed")
    rest = {"dL/dlog_probs": before["dL/dlog_probs"][:, 1:]}
    expect_equal(rest, {"dL/dlog_probs": torch.zeros_like(case.log_probs[:, 1:])}, note="for all but the best")


def _likelihood(subject: Subject, case: Rankings) -> None:
    count = lengths(case)[:, 0] if subject.parameter("per_token", False) else 1
    due = -case.log_probs[:, 0] / count
    expect_equal(subject(case), {"L": due}, note="= −log π of the best")


_RAFAILOV: Final = "Rafailov et al. 2023, eq. 7"
_ANCHORED: Final = "D'Oosterlinck et al. 2024, eq. 7 and 8"

CLAIMS: list[Property] = [
    gradient_of_its_value("preference", "log_probs"),
    claim(
        "every-row-counts-once",
        "a row without a missing response has weight 1, a pair of which one is missing weight 0",
        "contract of rlhf_lab",
        _counts_once,
    ),
    claim("log-two-at-the-reference", "L = log 2 at π = π_ref: nobody is preferred yet", _RAFAILOV, _log_two),
    claim("non-negative", "L ≥ 0", _RAFAILOV, _non_negative, cases=None, share=0.5),
    claim("bounded", "0 ≤ L ≤ 2, or at most the larger weight of a label", _ANCHORED, _bounded),
    claim("at-least-dpo", "L ≥ −log σ(β h), the loss of dpo", "Jung et al. 2024, theorem 3", _at_least_dpo),
    claim(
        "depends-on-log-ratios-only",
        "adding a number to log π and log π_ref of a response changes neither L nor g",
        "Rafailov et al. 2023, section 4",
        _ratios_only,
        share=0.5,
    ),
    claim(
        "depends-on-the-margin-only",
        "adding a number to log π of all responses to a prompt (as Z of the prompt does to rewards) changes neither L "
        "nor g",
        "Rafailov et al. 2023, section 5.1 and definition 1",
        _margin_only,
        share=0.5,
    ),
    claim("equal-and-opposite-pulls", "the gradients of a row sum to 0", _RAFAILOV, _opposite),
    claim(
        "responses-do-not-mix",
        "the gradient of either response does not depend on the other one",
        "Chen et al. 2024 (arXiv 2402.05369); D'Oosterlinck et al. 2024, eq. 7",
        _alone,
    ),
    claim(
        "beta-is-a-unit",
        "with log-ratios and divergences c times as large and β a c-th, L is the same and g a c-th",
        _RAFAILOV,
        _unit,
        applies=about("beta"),
    ),
    claim(
        "per-token-means",
        "a response with every token twice gets the same L: log-probabilities count per token",
        "Meng et al. 2024, section 2.2",
        _per_token,
    ),
    claim(
        "orders-sum-to-one",
        "exp(−L) sums to 1 over every order of the responses: L is a log-likelihood",
        "Rafailov et al. 2023, appendix A.3",
        _orders_sum_to_one,
        cases=whole_rows,
    ),
    claim(
        "unbiased-under-flips",
        "in expectation over labels flipped at the rate label_smoothing, L and g are those of dpo on right labels",
        "Chowdhury et al. 2024 (robust DPO)",
        _flips,
        applies=about("label_smoothing"),
    ),
    claim(
        "only-the-best-matters",
        "log-probabilities of all responses but the best change neither L nor g",
        "Ouyang et al. 2022, section 3.5",
        _best_only,
        cases=whole_rows,
    ),
    claim(
        "is-negative-log-likelihood",
        "L = −log π of the best response, or that per token",
        "Ouyang et al. 2022, section 3.5",
        _likelihood,
        cases=whole_rows,
    ),
]
