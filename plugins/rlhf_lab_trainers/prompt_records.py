"""Records by prompt, from which good responses to given prompts are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates, best_and_worst
from rlhf_lab_trainers.rows import taken

__all__ = ["PromptRecords"]


class PromptRecords:
    """The best response of each row of data, by prompt; a row is drawn in proportion to its weight.

    Prompts are the same where the input ``prompts`` is the same number. Raises ``LabError`` where they have none.
    """

    def __init__(self, data: Candidates) -> None:
        prompts = data.inputs.get("prompts")
        if prompts is None or prompts.ndim != 2:
            raise LabError(
                "data: prompts are not numbered, so that no sample can be set against a record of the same prompt"
            )
        best, _ = best_and_worst(data)
        weights = best.any(-1).double() if data.weights is None else best.any(-1) * data.weights.double()
        self._best = taken(data, best.byte().argmax(-1, keepdim=True))
        self._order = prompts.argsort(dim=1, stable=True)
        self._prompts = prompts.gather(1, self._order)
        sums = weights.gather(1, self._order).cumsum(1)
        self._sums = torch.cat([sums.new_zeros(len(sums), 1), sums], dim=1)  # of the weights before each row

    def draw(self, prompts: Tensor, uniforms: Tensor) -> tuple[Candidates, Tensor]:
        """Return a best response to each of ``prompts [runs, m]``, ``[runs, m, 1]``, and whether there is one."""
        first, end = (torch.searchsorted(self._prompts, prompts, right=right) for right in (False, True))
        low, high = self._sums.gather(1, first), self._sums.gather(1, end)
        place = torch.searchsorted(self._sums[:, 1:].contiguous(), low + uniforms * (high - low), right=True)
        row = torch.minimum(place, (end - 1).clamp(min=0))  # whatever rounding does, a row of this prompt
        return self._best.select(self._order.gather(1, row)), high > low
