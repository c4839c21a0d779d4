"""A component made of an existing plain function, so that it can be verified without being rewritten.

The role is that of the definition of record that the function is to be compared with. An argument gets the batch field
or parameter that is mapped to it, or that has its name; one with a default may stay without. What the arguments cannot
express, the function is not judged by.
"""

from __future__ import annotations

from rlhf_lab.conformance.function.arguments import load_function, parse_mapping
from rlhf_lab.conformance.function.component import Wrapped, from_function

__all__ = ["Wrapped", "from_function", "load_function", "parse_mapping"]
