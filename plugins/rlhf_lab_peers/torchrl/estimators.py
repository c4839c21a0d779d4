"""TorchRL's value estimators: functions of ``torchrl.objectives.value.functional``, which want ``[rows, t, 1]``.

They know two kinds of end, ``terminated`` and ``done``, and no mask. Defaults are those of its modules (``GAE`` and
others), which call them with γ and λ as tensors; so do we, in the batch's dtype: times a mask of integers, a Python
number is rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_peers.limits import given, refuse_invalid_steps

__all__ = ["GAE", "TD0", "TDLambda", "VTrace", "VectorisedGAE", "VectorisedTDLambda"]


class _Estimator(AdvantageEstimator):
    requires = frozenset({"values", "next_values"})

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")

    def model_post_init(self, context: Any) -> None:
        _functions()


class GAE(_Estimator):
    """Generalised advantage estimation of TorchRL, as a loop over steps.

    Calls ``generalized_advantage_estimate``.

    Source: torchrl/objectives/value/functional.py; Schulman et al. 2016, eq. 16.
    """

    name = "gae@torchrl"
    reference = "TorchRL, generalized_advantage_estimate; Schulman et al. 2016, eq. 16"
    implements = "gae"
    conventions = {"lam": "lmbda"}

    lmbda: float = Field(default=0.95, ge=0, le=1, description="weight of longer returns")

    def __call__(self, batch: Trajectories) -> Advantages:
        return _both(batch, _functions().generalized_advantage_estimate, self.gamma, self.lmbda)


class VectorisedGAE(GAE):
    """Generalised advantage estimation of TorchRL, as a convolution with the powers of γλ.

    Calls ``vec_generalized_advantage_estimate``.

    Source: torchrl/objectives/value/functional.py; Schulman et al. 2016, eq. 16.
    """

    name = "gae_vec@torchrl"
    reference = "TorchRL, vec_generalized_advantage_estimate; Schulman et al. 2016, eq. 16"

    def __call__(self, batch: Trajectories) -> Advantages:
        return _both(batch, _functions().vec_generalized_advantage_estimate, self.gamma, self.lmbda)


class TDLambda(_Estimator):
    """The λ-return of TorchRL, as a loop over steps, and its distance from the critic.

    Calls ``td_lambda_return_estimate`` and ``td_lambda_advantage_estimate``.

    Source: torchrl/objectives/value/functional.py; Sutton and Barto 2018, eq. 12.3.
    """

    name = "td_lambda@torchrl"
    reference = "TorchRL, td_lambda_return_estimate; Sutton and Barto 2018, eq. 12.3"
    implements = "td_lambda"
    conventions = {"lam": "lmbda"}

    lmbda: float = Field(default=0.95, ge=0, le=1, description="weight of longer returns")

    def __call__(self, batch: Trajectories) -> Advantages:
        functions = _functions()
        pair = (functions.td_lambda_return_estimate, functions.td_lambda_advantage_estimate)
        return _pair(batch, *pair, self.gamma, self.lmbda)


class VectorisedTDLambda(TDLambda):
    """The λ-return of TorchRL, as a convolution with the powers of γλ, and its distance from the critic.

    Calls ``vec_td_lambda_return_estimate`` and ``vec_td_lambda_advantage_estimate``.

    Source: torchrl/objectives/value/functional.py; Sutton and Barto 2018, eq. 12.3.
    """

    name = "td_lambda_vec@torchrl"
    reference = "TorchRL, vec_td_lambda_return_estimate; Sutton and Barto 2018, eq. 12.3"

    def __call__(self, batch: Trajectories) -> Advantages:
        functions = _functions()
        pair = (functions.vec_td_lambda_return_estimate, functions.vec_td_lambda_advantage_estimate)
        return _pair(batch, *pair, self.gamma, self.lmbda)


class TD0(_Estimator):
    """The one-step error of TorchRL.

    Calls ``td0_return_estimate`` and ``td0_advantage_estimate``.

    Source: torchrl/objectives/value/functional.py; Sutton and Barto 2018, eq. 6.5.
    """

    name = "td@torchrl"
    reference = "TorchRL, td0_advantage_estimate; Sutton and Barto 2018, eq. 6.5"
    implements = "td"

    def __call__(self, batch: Trajectories) -> Advantages:
        values, behind, rewards, done, terminated = _arguments(batch)
        functions, (gamma,) = _functions(), _numbers(batch, self.gamma)
        advantages = functions.td0_advantage_estimate(gamma, values, behind, rewards, done, terminated)
        returns = functions.td0_return_estimate(gamma, behind, rewards, terminated)
        return _answer(batch, advantages, returns)


class VTrace(_Estimator):
    """V-trace of TorchRL.

    Calls ``vtrace_advantage_estimate`` with the current policy as ``log_pi`` and the behaviour policy as ``log_mu``, as
    its code uses them (ρ = exp(log_pi − log_mu)); the names in its docstring are the other way round.

    Source: torchrl/objectives/value/functional.py; Espeholt et al. 2018, eq. 1.
    """

    name = "v_trace@torchrl"
    reference = "TorchRL, vtrace_advantage_estimate; Espeholt et al. 2018, eq. 1"
    requires = frozenset({"values", "next_values", "log_probs", "target_log_probs"})
    implements = "v_trace"
    conventions = {"lam": 1.0, "rho_bar": "rho_thresh", "c_bar": "c_thresh"}

    rho_thresh: float = Field(default=1.0, gt=0, description="cap of the weight of one error")
    c_thresh: float = Field(default=1.0, ge=0, description="cap of the weights along the trace")

    def __call__(self, batch: Trajectories) -> Advantages:
        log_pi = _column(given(batch.target_log_probs, "target_log_probs"))
        log_mu = _column(given(batch.log_probs, "log_probs"))
        gamma, rho_thresh, c_thresh = _numbers(batch, self.gamma, self.rho_thresh, self.c_thresh)
        caps = {"rho_thresh": rho_thresh, "c_thresh": c_thresh}
        arguments = (gamma, log_pi, log_mu, *_arguments(batch))
        return _answer(batch, *_functions().vtrace_advantage_estimate(*arguments, **caps))


@cache
def _functions() -> Any:
    import torchrl.objectives.value.functional

    return torchrl.objectives.value.functional


def _both(batch: Trajectories, function: Callable[..., tuple[Tensor, Tensor]], *parameters: float) -> Advantages:
    """Return what a function of advantages and value targets says."""
    return _answer(batch, *function(*_numbers(batch, *parameters), *_arguments(batch)))


def _pair(
    batch: Trajectories,
    returns: Callable[..., Tensor],
    advantages: Callable[..., Tensor],
    *parameters: float,
) -> Advantages:
    """Return what a function of returns and one of advantages say."""
    numbers, (values, *rest) = _numbers(batch, *parameters), _arguments(batch)
    return _answer(batch, advantages(*numbers, values, *rest), returns(*numbers, *rest))


def _numbers(batch: Trajectories, *parameters: float) -> tuple[Tensor, ...]:
    return tuple(batch.rewards.new_tensor([x]) for x in parameters)


def _arguments(batch: Trajectories) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return values, values behind each step, rewards, done and terminated, each ``[rows, t, 1]``."""
    refuse_invalid_steps(batch.valid, "TorchRL's estimator")
    values, behind = given(batch.values, "values"), given(batch.next_values, "next_values")
    done = batch.terminated | batch.truncated
    return tuple(map(_column, (values, behind, batch.rewards, done, batch.terminated)))  # type: ignore[return-value]


def _column(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1], 1)  # [rows, t, 1]


def _answer(batch: Trajectories, advantages: Tensor, returns: Tensor) -> Advantages:
    shape = batch.rewards.shape
    return Advantages(advantages.reshape(shape), returns.reshape(shape))
