"""TRL's DPO losses, out of ``DPOTrainer._compute_loss``, one pair at a time since that returns their mean.

A response's log-probability stands on its first token, the others have 0: the losses read the sum over tokens, and how
many there are. A pair of which one response is missing is not put to TRL and has weight 0. ``aot`` and ``aot_unpaired``
sort a whole batch and ``sft`` is no preference; they are not wrapped. Nor is the alpha-divergence, which takes no
float64.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.calling import default_dtype
from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings, Refused, clean
from rlhf_lab_peers.limits import given, refuse_empty
from rlhf_lab_peers.trl.trainer import peer, trainer

__all__ = ["DPO_LOSSES"]


class _PairLoss(PreferenceObjective):
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    loss_type: ClassVar[str]
    divergence: ClassVar[str] = "reverse_kl"
    precomputed: ClassVar[bool] = True  # the reference's sums over tokens are given

    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: Rankings) -> Loss:
        refuse_empty(batch.log_probs)
        shape = batch.log_probs.shape
        whole = torch.ones(shape[:-1], dtype=torch.bool) if batch.valid is None else batch.valid.all(-1)
        values = torch.zeros_like(batch.log_probs[..., 0])
        if bool(whole.any()):
            found = torch.stack(
                [self._loss(*pair) for pair in zip(*(x[whole] for x in self._given(batch)), strict=True)]
            )
            values = values.masked_scatter(whole, found)
        return Loss(values, weights=whole.to(values.dtype))

    def _given(self, batch: Rankings) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities of tokens ``[*b,2,t]`` under both policies, and which tokens there are."""
        lengths = torch.ones(batch.log_probs.shape, dtype=torch.long) if batch.lengths is None else batch.lengths
        counted = torch.arange(int(lengths.max())) < lengths[..., None]
        first = torch.arange(counted.shape[-1]) == 0
        policy, reference = batch.log_probs, given(batch.ref_log_probs, "ref_log_probs")
        return torch.where(first, policy[..., None], 0), torch.where(first, reference[..., None], 0), counted

    def _loss(self, log_probs: Tensor, ref_log_probs: Tensor, counted: Tensor) -> Tensor:
        """Return the loss of one pair, chosen and rejected response, of tokens ``[2, t]``."""
        tokens = counted.shape[-1]
        mask = torch.cat([torch.zeros(2, 1, dtype=torch.bool), counted], dim=1)  # the prompt in front
        outputs = SimpleNamespace(
            log_probs=log_probs,
            entropy=torch.zeros(2, tokens),
            mean_logits=torch.zeros(2, tokens),
            is_top1=torch.zeros(2, tokens, dtype=torch.bool),
        )
        inputs = {
            "input_ids": torch.zeros(mask.shape, dtype=torch.long),
            "attention_mask": torch.ones(mask.shape, dtype=torch.long),
            "completion_mask": mask.long(),
            "ref_chosen_logps": ref_log_probs[:1].sum(-1),
            "ref_rejected_logps": ref_log_probs[1:].sum(-1),
        }
        trained = trainer(
            args=SimpleNamespace(
                gradient_checkpointing_kwargs=None, **{name: getattr(self, name) for name in type(self).model_fields}
            ),
            beta=self.beta,
            label_smoothing=getattr(self, "label_smoothing", 0.0),
            loss_types=[self.loss_type],
            loss_weights=[1.0],
            f_divergence_type=self.divergence,
            ld_alpha=getattr(self, "ld_alpha", None),
            precompute_ref_logps=self.precomputed,
            ref_model=lambda **_: SimpleNamespace(log_probs=ref_log_probs),
            use_weighting=False,
            _total_train_tokens=0,
            _tp_size=1,
        )
        with default_dtype(log_probs.dtype):
            found: Tensor = peer().DPOTrainer._compute_loss(trained, lambda **_: outputs, inputs, False)
        return found


class _Smoothed(_PairLoss):
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="how often a label is wrong")


class Sigmoid(_PairLoss):
    """DPO: −log sigmoid(β h), with h the difference of the log-ratios of both responses.

    Source: trl/trainer/dpo_trainer.py; Rafailov et al. 2023, eq. 7.
    """

    name = "dpo@trl"
    reference = "TRL, DPOTrainer; Rafailov et al. 2023, eq. 7"
    loss_type = "sigmoid"
    implements = "dpo"


class IPO(_PairLoss):
    """IPO with log-ratios per token: (h − 1/(2β))².

    Source: trl/trainer/dpo_trainer.py; Azar et al. 2023, eq. 17, which has sums over tokens.
    """

    name = "ipo@trl"
    reference = "TRL, DPOTrainer; Azar et al. 2023, eq. 17"
    requires = frozenset({"ref_log_probs", "lengths"})
    loss_type = "ipo"
    implements = "ipo"
    conventions = {"soft_labels": False}


class Hinge(_PairLoss):
    """A hinge on the margin: max(0, 1 − β h).

    Source: trl/trainer/dpo_trainer.py; Liu et al. 2023 (RSO); Zhao et al. 2023 (SLiC-HF).
    """

    name = "hinge@trl"
    reference = "TRL, DPOTrainer; Liu et al. 2023 (RSO)"
    loss_type = "hinge"
    implements = "hinge"


class Robust(_Smoothed):
    """DPO that is right in expectation where labels are flipped at a known rate.

    Source: trl/trainer/dpo_trainer.py; Chowdhury et al. 2024.
    """

    name = "robust_dpo@trl"
    reference = "TRL, DPOTrainer; Chowdhury et al. 2024"
    loss_type = "robust"
    implements = "robust_dpo"


class ExoPair(_PairLoss):
    """EXO for pairs: the divergence of the policy's preference from the smoothed label.

    TRL refuses its general default of 0 for ``label_smoothing`` here, and names 1e-3.

    Source: trl/trainer/dpo_trainer.py; Ji et al. 2024, eq. 16.
    """

    name = "exo_pair@trl"
    reference = "TRL, DPOTrainer; Ji et al. 2024, eq. 16"
    loss_type = "exo_pair"
    implements = "exo"

    label_smoothing: float = Field(default=1e-3, gt=0, lt=0.5, description="how often a label is wrong")


class NCAPair(_PairLoss):
    """NCA for pairs, which holds the chosen response up by itself.

    Source: trl/trainer/dpo_trainer.py; Chen et al. 2024 (arXiv 2402.05369).
    """

    name = "nca_pair@trl"
    reference = "TRL, DPOTrainer; Chen et al. 2024"
    loss_type = "nca_pair"
    implements = "nca"


class BCOPair(_PairLoss):
    """BCO for pairs, without the moving shift of its paper.

    Source: trl/trainer/dpo_trainer.py; Jung et al. 2024.
    """

    name = "bco_pair@trl"
    reference = "TRL, DPOTrainer; Jung et al. 2024"
    loss_type = "bco_pair"
    implements = "bco"
    conventions = {"shift": 0.0}


class SPPOHard(_PairLoss):
    """SPPO with hard labels: each log-ratio is drawn to ±1/(2β).

    Source: trl/trainer/dpo_trainer.py; Wu et al. 2024, eq. 4.7.
    """

    name = "sppo@trl"
    reference = "TRL, DPOTrainer; Wu et al. 2024, eq. 4.7"
    loss_type = "sppo_hard"
    implements = "sppo"
    conventions = {"soft_labels": False}


class APOZero(_PairLoss):
    """APO-zero: the chosen response up and the rejected one down, both bounded.

    Source: trl/trainer/dpo_trainer.py; D'Oosterlinck et al. 2024, eq. 7.
    """

    name = "apo_zero@trl"
    reference = "TRL, DPOTrainer; D'Oosterlinck et al. 2024, eq. 7"
    loss_type = "apo_zero"
    implements = "apo_zero"


class APODown(_PairLoss):
    """APO-down: both responses down, the rejected one more.

    Source: trl/trainer/dpo_trainer.py; D'Oosterlinck et al. 2024, eq. 8.
    """

    name = "apo_down@trl"
    reference = "TRL, DPOTrainer; D'Oosterlinck et al. 2024, eq. 8"
    loss_type = "apo_down"
    implements = "apo_down"


class SigmoidNorm(_PairLoss):
    """DPO with log-ratios per token.

    Source: trl/trainer/dpo_trainer.py; Lambert et al. 2024 (Tulu 3).
    """

    name = "dpo_norm@trl"
    reference = "TRL, DPOTrainer; Lambert et al. 2024"
    requires = frozenset({"ref_log_probs", "lengths"})
    loss_type = "sigmoid_norm"
    implements = "dpo_norm"


class DiscoPOP(_PairLoss):
    """DiscoPOP: a blend of logistic and exponential loss.

    Source: trl/trainer/dpo_trainer.py; Lu et al. 2024, eq. 5.
    """

    name = "discopop@trl"
    reference = "TRL, DPOTrainer; Lu et al. 2024, eq. 5"
    loss_type = "discopop"
    implements = "discopop"
    conventions = {"tau": "discopop_tau"}

    discopop_tau: float = Field(default=0.05, gt=0, description="temperature of the blend")


class ForwardDPO(_PairLoss):
    """DPO near the reference in the forward divergence: scores 1 − π_ref/π in place of log(π/π_ref).

    Source: trl/trainer/dpo_trainer.py, f_divergence_type="forward_kl"; Wang et al. 2023 (f-DPO).
    """

    name = "f_dpo_forward@trl"
    reference = "TRL, DPOTrainer; Wang et al. 2023 (f-DPO)"
    loss_type = "sigmoid"
    divergence = "forward_kl"
    implements = "f_dpo"
    conventions = {"divergence": "forward"}


class JensenShannonDPO(_PairLoss):
    """DPO near the reference in the Jensen-Shannon divergence: scores log(2 u/(1 + u)), u = π/π_ref.

    Source: trl/trainer/dpo_trainer.py, f_divergence_type="js_divergence"; Wang et al. 2023 (f-DPO).
    """

    name = "f_dpo_js@trl"
    reference = "TRL, DPOTrainer; Wang et al. 2023 (f-DPO)"
    loss_type = "sigmoid"
    divergence = "js_divergence"
    implements = "f_dpo"
    conventions = {"divergence": "js"}


class LDDPO(_PairLoss):
    """DPO in which tokens beyond the length of the shorter response count ``ld_alpha`` times.

    TRL's own default of None switches this off.

    Source: trl/trainer/dpo_trainer.py; Liu et al. 2024 (arXiv 2409.06411).
    """

    name = "ld_dpo@trl"
    reference = "TRL, DPOTrainer; Liu et al. 2024 (arXiv 2409.06411)"
    requires = frozenset({"token_log_probs", "token_ref_log_probs", "token_valid"})
    loss_type = "sigmoid"
    precomputed = False
    implements = "ld_dpo"
    conventions = {"alpha": "ld_alpha"}

    ld_alpha: float = Field(default=0.5, ge=0, le=1, description="weight of tokens beyond the shorter response")

    def _given(self, batch: Rankings) -> tuple[Tensor, Tensor, Tensor]:
        reference = given(batch.token_ref_log_probs, "token_ref_log_probs")
        if batch.token_log_probs is None or batch.token_valid is None:
            raise Refused("token_log_probs or token_valid is None")
        policy, counted = batch.token_log_probs, batch.token_valid
        return clean(policy, counted), clean(reference, counted), counted


DPO_LOSSES: list[type[PreferenceObjective]] = [
    *(Sigmoid, IPO, Hinge, Robust, ExoPair, NCAPair, BCOPair, SPPOHard, APOZero, APODown, SigmoidNorm, DiscoPOP),
    *(ForwardDPO, JensenShannonDPO, LDDPO),
]
