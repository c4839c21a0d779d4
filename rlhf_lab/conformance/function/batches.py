"""What a plain function may take: the fields of its role's batches, and others that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import Estimated, LogProbs, Observed
from rlhf_lab.types import PolicyBatch, Rankings, Scores, Trajectories, ValueBatch

__all__ = ["BEHIND", "FIELDS", "PAIR", "PSEUDO", "Given", "last_steps", "pseudo_fields", "required_by"]

Given = Mapping[str, Tensor]
"""A batch ``[rows, t]`` as a mapping."""

_BATCHES: Final[Mapping[str, type]] = {
    "advantage": Trajectories,
    "normalizer": Estimated,
    "objective": PolicyBatch,
    "value": ValueBatch,
    "kl": LogProbs,
    "controller": Observed,
    "preference": Rankings,
    "reward_model": Scores,
}
FIELDS: Final = {  # of tokens none: a function sees one number per step or candidate
    role: tuple(f.name for f in fields(b) if f.metadata.get("axes", "token") != "token") for role, b in _BATCHES.items()
}
_OPTIONAL: Final = {role: {f.name for f in fields(b) if f.default is None} for role, b in _BATCHES.items()}

_TRAJECTORY: Final = {
    "done": "terminated or truncated",
    "mask": "valid as a number",
    "last_value": "[rows] the value behind the row's last step",
    "values_with_last": "[rows, t+1] values and, behind the row's last step, the value there",
}
_MASK: Final = {"mask": _TRAJECTORY["mask"]}
_OF_PAIRS: Final = {  # role: pseudo-field -> what it is, the field that it is of, and whose
    "reward_model": {
        "chosen": ("[rows] the score of the better of two", "scores", 0),
        "rejected": ("[rows] the score of the worse of two", "scores", 1),
    },
    "preference": {
        "chosen": ("[rows] log π of the better of two", "log_probs", 0),
        "rejected": ("[rows] log π of the worse of two", "log_probs", 1),
        "ref_chosen": ("[rows] log π_ref of the better of two", "ref_log_probs", 0),
        "ref_rejected": ("[rows] log π_ref of the worse of two", "ref_log_probs", 1),
        "chosen_length": ("[rows] how many tokens the better of two has", "lengths", 0),
        "rejected_length": ("[rows] how many tokens the worse of two has", "lengths", 1),
    },
}
PSEUDO: Final[Mapping[str, Mapping[str, str]]] = {
    "advantage": _TRAJECTORY,
    "normalizer": _TRAJECTORY,
    "objective": _MASK,
    "value": _MASK,
    "kl": {},
    "controller": {},
    **{role: _MASK | {name: told for name, (told, _, _) in pair.items()} for role, pair in _OF_PAIRS.items()},
}
"""What may be mapped to an argument besides the fields of a batch."""

PAIR: Final = frozenset().union(*_OF_PAIRS.values())
"""What tells of the two candidates of a pair."""

BEHIND: Final = frozenset({"next_values", "last_value", "values_with_last"})
"""What tells of the critic's value behind a row's last step."""


def required_by(role: str, takes: frozenset[str]) -> frozenset[str]:
    """Return the optional batch fields that a function reads which takes these fields and pseudo-fields."""
    found = set(takes)
    found |= {"next_values"} if "last_value" in takes else set()
    found |= {"values", "next_values"} if "values_with_last" in takes else set()
    found |= {field for name, (_, field, _) in _OF_PAIRS.get(role, {}).items() if name in takes}
    return frozenset(found & _OPTIONAL[role])


def pseudo_fields(role: str, takes: frozenset[str], given: Given) -> dict[str, Tensor]:
    """Return the pseudo-fields that a function takes, and ``next_values`` as it must see them."""
    found = {}
    if "mask" in takes:
        found["mask"] = given["valid"].to(next(iter(given.values())).dtype)
    for name, (_, field, place) in _OF_PAIRS.get(role, {}).items():
        if name in takes:
            found[name] = given[field][..., place]
    if "done" in takes:
        found["done"] = given["terminated"] | given["truncated"]
    if not (takes & BEHIND and "next_values" in given):
        return found
    behind = given["next_values"]
    if not takes & {"terminated", "done"}:
        # who is not told of a termination is told that nothing follows
        behind = behind.masked_fill(given["terminated"], 0)
    last = last_steps(given["valid"])
    found |= {"next_values": behind, "last_value": behind.masked_fill(~last, 0).sum(-1)}
    if "values_with_last" in takes:
        rows, steps = behind.shape
        longer = torch.cat([given["values"], behind.new_zeros(rows, 1)], dim=-1)  # [rows, t+1]
        at = torch.where(last.any(-1), last.int().argmax(-1) + 1, steps)
        found["values_with_last"] = longer.scatter(-1, at[:, None], found["last_value"][:, None])
    return found


def last_steps(valid: Tensor) -> Tensor:
    """Return where the last valid step of each row is."""
    return valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)
