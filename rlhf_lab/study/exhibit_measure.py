"""The measure ``exhibits``: what the environment shows of a policy."""

from __future__ import annotations

from typing import Any

from rlhf_lab.errors import LabError
from rlhf_lab.study.measures import policy_table
from rlhf_lab.training.exhibits import Exhibit
from rlhf_lab.training.protocols import BuiltEnvironment, ExhibitingEnvironment

__all__ = ["exhibits_of"]


def exhibits_of(environment: BuiltEnvironment, actor: Any) -> tuple[Exhibit, ...]:
    """Return what the environment shows of the first run's policy.

    Raises ``LabError`` where it has nothing to show, where its world is not known or where there is no policy.
    """
    world = environment.exact()
    if not isinstance(environment, ExhibitingEnvironment) or world is None:
        raise LabError("measure: exhibits needs an environment that shows some; this one has none")
    if not hasattr(actor, "action_log_probs"):
        raise LabError("measure: exhibits needs a policy; this trainer learns none")
    return tuple(environment.exhibits(policy_table(actor, world)[0]))
