"""What the broken laws of ``peers_verified.py`` mean: one fair sentence each, and the smallest case worked by hand.

Kinds: a *difference* is another convention, documented or contested; an *edge* is a case that the peer says nothing
about; a *defect* contradicts what the peer itself says or does. Checked with stable-baselines3 2.9.2, torchrl 0.14.1,
trl 1.16.0; a newer version may have mended it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["NOTES", "Note"]


class Note(NamedTuple):
    """What a broken law means, and how it was checked by hand."""

    kind: str
    sentence: str
    by_hand: str


_LAMBDA_ZERO: Final = Note(
    "defect",
    "The vectorised form raises IndexError where γλ = 0, so that λ = 0 (one-step errors), which the loop form "
    "answers, cannot be asked for; loud, hence harmless to results.",
    "γ = 1, λ = 0, one step, r = V = V' = 0: A = r + γV' − V = 0 for any λ. The series of powers of γλ is "
    "returned as zeros of the shape [t] instead of (1, 0, ...) of the shape [t, 1], on which the convolution "
    "fails.",
)
_EMPTY_ROW: Final = Note(
    "edge",
    "A completion whose every token is masked (TRL: mask_truncated_completions) still counts in the number of "
    "completions, which makes the loss of the others smaller; here a sequence is an episode with a valid step.",
    "One row of one token with loss x: loss x. With a second row that is all masked: (x + 0) / 2.",
)
_PENALTY: Final = Note(
    "defect",
    "The KL penalty is averaged over all positions, masked ones included as 0, while the policy loss beside it is"
    " averaged over tokens that count: more padding means a smaller coefficient.",
    "Two positions, the second masked, log(π_ref/π) = log 2 at the first: k3 = 2 − 1 − log 2 = 0.307; the mean "
    "over tokens is 0.307, loss_kl_to_ref is (0.307 + 0) / 2 = 0.153.",
)
_NAN: Final = Note(
    "defect",
    "Masked steps are left out of the loss by `where` after the arithmetic, so that a NaN in a masked advantage or "
    "log-probability leaves the value sound and makes the gradient NaN; its comment means to prevent both.",
    "A = (1, NaN), mask (1, 0), ρ = (1, 1): L = −1, dL/dlog π₁ = −1, and dL/dlog π₂ = 0 · NaN = NaN.",
)
_BETA: Final = Note(
    "defect",
    "KLPENPPOLoss adapts beta in place (`beta.data *= ...`) after the loss is formed and before it is "
    "differentiated: its value has the old coefficient, its gradient the new one. Seen here as the gradient of a "
    "step depending on the others, whose mean decides.",
    "π_old = (.5, .5), π = (.8, .2), A = 0, beta = 1: KL = .5 log(.5/.8) + .5 log(.5/.2) = 0.223 > 1.5 · 0.01, "
    "beta becomes 2. Loss 0.223 = 1 · KL; its gradient by the logits should be π − π_old = (.3, −.3) and is (.6, "
    "−.6).",
)
_STEEP: Final = Note(
    "edge",
    "The exponential part overflows where the rejected response is far ahead, and infinity times its weight of 0 is "
    "NaN: in float64 from a margin β h of about -709, in float32 from -89; a run that gets there loses its weights.",
    "β = 1, τ = ½, a = 0, b = 8003: z = −8003, weight sigmoid(z/τ) = 0, e^8003 = inf, 0 · inf = NaN; the loss is 8003.",
)
_FORWARD: Final = Note(
    "edge",
    "Scores 1 − exp(−log(π/π_ref)) overflow where a response has become rare, in float64 from a log-ratio of about "
    "-709, in float32 from -89; the alpha-divergence beside it holds its exponent, this one does not.",
    "a = 0, b = −8003: score of the rejected 1 − e^8003 = −inf, margin inf, loss 0, and its gradient is "
    "−sigmoid(−inf) · inf = 0 · inf = NaN; as the limit it is 0.",
)

NOTES: Final[dict[tuple[str, str], Note]] = {
    **{
        (f"advantage/{name}", law): _LAMBDA_ZERO
        for name in ("gae_vec@torchrl", "td_lambda_vec@torchrl")
        for law in ("answers-every-batch", "termination-wins", "live-edge-is-a-truncation")
    },
    **{
        (f"advantage/{name}", law): Note(
            "edge",
            "The vectorised form cuts the series of powers of γλ below about 1e-7, one power early where γλ is small.",
            "γ = λ = 1/8, δ = (0, 0, 0, 1): A₀ = (1/64)³ = 3.8e-6; int(log 1e-7 / log(1/64)) = 3 powers are kept: 0.",
        )
        for name, law in (("gae_vec@torchrl", "is-gae"), ("td_lambda_vec@torchrl", "is-td-lambda"))
    },
    **{
        (f"aggregation/{name}", law): _EMPTY_ROW
        for name, own in (
            ("sequence_mean@torchrl", "is-sequence-mean"),
            ("sequence_mean@trl", "is-sequence-mean"),
            ("sequence_sum@trl", "is-sequence-sum"),
            ("constant@trl", "is-constant"),
        )
        for law in ("empty-rows-weigh-nothing", own)
    },
    **{
        ("aggregation/kl_token_mean@torchrl", law): _PENALTY
        for law in ("padding-width-ignored", "invalid-steps-crossed", "empty-rows-weigh-nothing", "is-token-mean")
    },
    **{
        (f"objective/{name}", "padding-content-ignored"): _NAN
        for name in ("ppo_clip@torchrl", "importance_weighted@torchrl")
    },
    **{("kl/kl_penalty@torchrl", law): _BETA for law in ("batch-rows-independent", "steps-independent", "runs-apart")},
    **{
        ("preference/discopop@trl", law): _STEEP
        for law in (
            "answers-every-batch",
            "float32-agrees",
            "padding-content-ignored",
            "finite-at-extreme-log-probs",
            "is-discopop",
        )
    },
    **{
        ("preference/f_dpo_forward@trl", law): _FORWARD
        for law in ("answers-every-batch", "padding-content-ignored", "finite-at-extreme-log-probs")
    },
    ("preference/ipo@trl", "is-ipo"): Note(
        "difference",
        "TRL divides each log-ratio by its response's length, as its comment says, after a word with the paper's "
        "authors; the paper's eq. 17, which is the record here, has sums over tokens. For responses of one token both "
        "are the same.",
        "π = π_ref, β = 1, lengths 1 and 2: L = (0 − ½)²; dL/dlog π(y_l) = −2 (−½) = 1 for sums, ½ for means.",
    ),
    ("objective/cispo@torchrl", "is-cispo"): Note(
        "difference",
        "CISPOLoss does what its docstring says, −clip(ρ) A, differentiated through the clipped ratio; the paper "
        "that it cites has −sg(clip(ρ)) A log π. A clipped token gets no gradient in the one and a bounded one in"
        " the other, which is CISPO's point. (The loss values differ as well; those mean nothing.)",
        "A = 1, ε = 0.2, ρ = 2: −d/dlog π [1.2] = 0; the paper's −1.2.",
    ),
    ("objective/cispo@trl", "is-cispo"): Note(
        "difference",
        "TRL's epsilon_high is the bound of the ratio itself and not its distance from 1, as documented; the "
        "general default of 0.2 is kept, with which every token is multiplied by 0.2 at ρ = 1. With epsilon_high "
        "= 1 + clip_high it is the same loss.",
        "A = 1, ρ = e, epsilon_high = 1: weight min(e, 1) = 1; 1 + clip_high = 2 gives min(e, 2) = 2.",
    ),
    ("objective/grpo@trl", "is-grpo"): Note(
        "difference",
        "TRL multiplies the KL penalty by ρ by default (use_bias_correction_kl, documented, after DeepSeek-V3.2),"
        " which makes its gradient that of KL(π ‖ π_ref); GRPO's paper has k3 alone. With the option off it is "
        "GRPO's.",
        "A = 0, ρ = 1, log(π_ref/π) = 1, beta = 1: d(ρ k3) = −log u = −1; d(k3) = 1 − u = 1 − e = −1.718.",
    ),
}
