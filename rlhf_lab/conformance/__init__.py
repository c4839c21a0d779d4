"""Verification: is the math of a component right, and if not, which law does it break and on which smallest case?"""

from __future__ import annotations

from rlhf_lab.conformance.checks import parametrize_with_properties
from rlhf_lab.conformance.definitions import Definition, definition, definitions
from rlhf_lab.conformance.difference import Difference, diff
from rlhf_lab.conformance.explanation import Explanation
from rlhf_lab.conformance.function import from_function
from rlhf_lab.conformance.property import Property, Violation, expect_equal, expect_true
from rlhf_lab.conformance.report import Report
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.conformance.taking_apart import explain
from rlhf_lab.conformance.verdict import Counterexample, Verdict
from rlhf_lab.conformance.verification import claims_of_role, properties_for, verify

__all__ = [
    "Counterexample",
    "Definition",
    "Difference",
    "Explanation",
    "Property",
    "Report",
    "Subject",
    "Verdict",
    "Violation",
    "claims_of_role",
    "definition",
    "definitions",
    "diff",
    "expect_equal",
    "expect_true",
    "explain",
    "from_function",
    "parametrize_with_properties",
    "properties_for",
    "verify",
]
