"""Laws that several roles share, each written once for batches ``[rows, t]``."""

from __future__ import annotations

from dataclasses import replace

from rlhf_lab.conformance.properties import calls, mixing, padding, sensitivity
from rlhf_lab.conformance.property import Property

__all__ = ["common_laws"]


def common_laws(role: str) -> list[Property]:
    """Return the laws that the role shares with others."""
    laws = [*calls.LAWS, *padding.LAWS, *mixing.LAWS, *sensitivity.LAWS]
    return [replace(law, role=role) for roles, law in laws if role in roles]
