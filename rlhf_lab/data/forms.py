"""The forms of preference data: which columns a file has, and what they mean.

Columns are named as in TRL's data set types and most sets on the Hugging Face Hub:

- ``pairs``: prompt, chosen, rejected. Where chosen and rejected are whole conversations, the messages that both share
  are the prompt, and what the column ``prompt`` says must be one of them.
- ``implicit_pairs``: chosen, rejected, two whole conversations; their common beginning is the prompt.
- ``rankings``: prompt, responses, ranking = the rank of each response, in the order of the responses: 1 is the best,
  equal ranks are a tie. Behind a tie of two the next rank may be the next number (1, 1, 2) or leave one out (1, 1, 3),
  or the tie may hold the mean (1.5, 1.5, 3). Positions or names in the order of preference are another convention, and
  refused wherever they can be told from ranks.
- ``labels``: prompt, completion, label = whether the completion is desirable.

Texts are strings, or lists of messages with ``role`` and ``content``. Pairs may have ``margin``, and ``score_chosen``
with ``score_rejected``: numbers, in every row or in none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.data.rows import Notes, Row, read_implicit_pair, read_label, read_pair, read_ranking
from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["COLUMNS", "FORMS", "Form", "FormName", "Layout", "recognise"]

FormName = Literal["pairs", "implicit_pairs", "rankings", "labels"]


@dataclass(frozen=True)
class Form:
    """Columns that every row has, groups of columns that all rows have or none, and how a row is read."""

    name: FormName
    columns: tuple[str, ...]
    optional: tuple[tuple[str, ...], ...]
    read: Callable[[Row, str, Notes], Ranking]


@dataclass(frozen=True)
class Layout:
    """A form, and all columns of it that the data has; the others are absent."""

    form: Form
    columns: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def read(self, row: Row, place: str, notes: Notes) -> Ranking:
        """Return the row that stands at ``place`` as a ranking; raises ``BadRowError``."""
        for name in self.columns:
            if row.get(name) is None:
                raise BadRowError(name, "is missing", due=f"every row needs {', '.join(self.columns)}")
        for name in self.absent:
            if name in row:
                raise BadRowError(name, "is missing in the first row", due="give it in every row, or in none")
        return self.form.read(row, place, notes)


_NUMBERS: Final = (("margin",), ("score_chosen", "score_rejected"))
FORMS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        Form("pairs", ("prompt", "chosen", "rejected"), _NUMBERS, read_pair),
        Form("implicit_pairs", ("chosen", "rejected"), _NUMBERS, read_implicit_pair),
        Form("rankings", ("prompt", "responses", "ranking"), (), read_ranking),
        Form("labels", ("prompt", "completion", "label"), (), read_label),
    )
}

COLUMNS: Final = frozenset(
    name for form in FORMS.values() for name in (*form.columns, *(name for group in form.optional for name in group))
)
"""All columns that any form reads."""


def recognise(columns: Collection[str], form: str | None, place: str) -> Layout:
    """Return the layout of data with these columns; ``form`` says which is meant where several fit.

    Raises ``LabError`` where none fits, several do, the one that was asked for does not, or a group is not whole.
    """
    if form is not None and form not in FORMS:
        raise LabError(f"no form of preference data is called {form!r}. {did_you_mean(form, FORMS)}")
    asked = FORMS.values() if form is None else [FORMS[form]]
    fitting = [each for each in asked if set(each.columns) <= set(columns)]
    if len(fitting) > 1 and "prompt" in columns:
        fitting = [each for each in fitting if each.name != "implicit_pairs"]  # who writes a prompt means it
    found = f"{place}: the columns are {', '.join(sorted(map(str, columns))) or '(none)'}"
    if len(fitting) > 1:
        raise LabError(f"{found}, and several forms fit. Say which is meant: {_listed(fitting)}.")
    if not fitting:
        raise LabError(f"{found}; rename what is meant, since preference data has: {_listed(asked)}.")
    chosen = fitting[0]
    for group in chosen.optional:
        if 0 < len(missing := [name for name in group if name not in columns]) < len(group):
            raise LabError(f"{found}; {missing[0]} is missing. Give {' and '.join(group)}, or none of them.")
    optional = [name for group in chosen.optional for name in group]
    given = [name for name in optional if name in columns]
    return Layout(chosen, (*chosen.columns, *given), tuple(name for name in optional if name not in columns))


def _listed(forms: Iterable[Form]) -> str:
    return " or ".join(f"{form.name} ({', '.join(form.columns)})" for form in forms)
