"""Policies whose weights have a leading run axis, so that all seeds of an arm train at once."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_policies.linear_features import LinearFeatures
from rlhf_lab_policies.linear_softmax import LinearSoftmax
from rlhf_lab_policies.mlp import MLP
from rlhf_lab_policies.tabular_autoregressive import TabularAutoregressive
from rlhf_lab_policies.tabular_softmax import TabularSoftmax
from rlhf_lab_policies.transformer import Transformer

__all__ = [
    "MLP",
    "LinearFeatures",
    "LinearSoftmax",
    "TabularAutoregressive",
    "TabularSoftmax",
    "Transformer",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the policies of this package."""
    return [TabularSoftmax, LinearSoftmax, MLP, TabularAutoregressive, LinearFeatures, Transformer]
