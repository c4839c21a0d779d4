"""Definitions of record of role preference."""

from __future__ import annotations

from rlhf_lab.conformance.definitions.definition import Definition

__all__ = ["DEFINITIONS"]

DEFINITIONS: list[Definition] = []
