"""A batch without a step: every estimator and normalizer answers with as little."""

from __future__ import annotations

import pytest
import torch

from rlhf_lab.components import AdvantageEstimator, AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages import BatchNormalizer, GroupNormalizer, rlhf_lab_components

PARTS = [part() for part in rlhf_lab_components()]
PARTS += [BatchNormalizer(over="episodes"), GroupNormalizer(over="episodes")]


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 0, 3), (2, 3, 0), (0, 2, 3)], ids=str)
@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_batch_without_a_step_keeps_its_shape(part: object, shape: tuple[int, ...]) -> None:
    x, row = torch.zeros(shape), torch.zeros(shape[:-1])
    fields = dict.fromkeys(["values", "next_values", "log_probs", "target_log_probs", "score_norms"], x)
    flags = [x.bool()] * 3
    batch = Trajectories(x, *flags, **fields, group_ids=row.long(), baseline_scores=row)
    if isinstance(part, AdvantageNormalizer):
        answer = part(batch, Advantages(x, x))
    else:
        assert isinstance(part, AdvantageEstimator)
        answer = part(batch)
    assert answer.advantages.shape == shape
    assert answer.returns is None or answer.returns.shape == shape
