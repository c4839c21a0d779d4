"""Definitions of record: what a name means, in another form than the components that implement it.

``implements = "gae"`` says that a component is another implementation of ``gae`` of its role. Parameters are read from
equally named fields; ``conventions`` renames or fixes them; a parameter that the component lacks has the default here.
Oracles are plain Python or NumPy in float64, written as sums over what is yet to come, never as a recursion, and share
nothing with any plugin.
"""

from __future__ import annotations

from rlhf_lab.conformance.definitions.definition import Definition, definition, definitions

__all__ = ["Definition", "definition", "definitions"]
