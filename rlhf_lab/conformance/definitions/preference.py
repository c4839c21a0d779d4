"""Definitions of record of role preference: the loss of a row, and by hand its slope in each log-probability."""

from __future__ import annotations

from rlhf_lab.conformance.definitions import preference_batches, preference_margins, preference_responses
from rlhf_lab.conformance.definitions.definition import Definition

__all__ = ["DEFINITIONS"]

DEFINITIONS: list[Definition] = [
    *preference_batches.DEFINITIONS,
    *preference_margins.DEFINITIONS,
    *preference_responses.DEFINITIONS,
]
