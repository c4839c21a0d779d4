"""What other libraries compute, as components: ``gae@sb3``, ``cispo@torchrl``, ``grpo@trl`` and others.

Requirements this package meets:
- a wrapper calls the peer's own function, converts the batch to the peer's layout and the answer back, and repairs
  nothing;
- what the peer cannot express is refused with the reason (``rlhf_lab.types.Refused``), so that it is not judged by it;
- a peer's gradient is its own, but what it is given is detached, as in its own training loop;
- defaults are the peer's own, parameters have its names, and ``conventions`` say what they are called here;
- each peer is a plugin of its own (``peers_sb3`` ...): one that is not installed takes down no other. It is imported
  when a component is first made, since that takes seconds.
"""

from __future__ import annotations

__all__: list[str] = []
