"""Laws of role preference, which every sensible loss on responses obeys, and all that one may claim."""

from __future__ import annotations

from rlhf_lab.conformance.properties.losses import some_gradient
from rlhf_lab.conformance.property import Property

__all__ = ["PROPERTIES"]

PROPERTIES: list[Property] = [some_gradient("preference")]
