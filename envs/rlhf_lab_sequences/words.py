"""Responses in words: one character per token, prompts by their number."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Final

import torch

from rlhf_lab.data.ranking import Ranking, Text
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.token_tree import TokenTree
from rlhf_lab_sequences.responses import side_by_side

__all__ = ["ALPHABET", "encode", "spell"]

ALPHABET: Final = string.ascii_lowercase + string.ascii_uppercase + string.digits


def spell(tree: TokenTree, response: int, alphabet: str | None = None) -> str:
    """Return a response in words: its tokens' characters, the end token's too."""
    letters = _letters(tree, alphabet)
    return "".join(letters[token] for token in tree.tokens[response, : tree.lengths[response]].tolist())


def encode(rankings: Sequence[Ranking], tree: TokenTree, prompts: int, alphabet: str | None = None) -> Candidates:
    """Return rankings in words as candidates ``[1, rows, k]``, rows of fewer responses filled up as not valid.

    A prompt is its number, ``"0"`` and up. A response is its tokens' characters of ``alphabet`` (None: abc...), the end
    token's too. What is said of the responses is left to who reads the rows.

    Raises ``LabError`` with the row's place for an unknown prompt or character, and for a response that does not end or
    goes on behind its end.
    """
    if not rankings:
        raise LabError("encode: there are no rows; give one at least")
    letters = {letter: token for token, letter in enumerate(_letters(tree, alphabet))}
    most = max(len(row.responses) for row in rankings)
    numbers = torch.zeros(1, len(rankings), most, dtype=torch.int64)
    valid = torch.zeros(1, len(rankings), most, dtype=torch.bool)
    for i, row in enumerate(rankings):
        count = len(row.responses)
        numbers[0, i, :count] = torch.tensor([_number(text, tree, letters, row.place) for text in row.responses])
        valid[0, i, :count] = True
    asked = torch.tensor([[_prompt(row, prompts) for row in rankings]])
    return side_by_side(tree, asked, numbers, valid=None if bool(valid.all()) else valid)


def _letters(tree: TokenTree, alphabet: str | None) -> str:
    letters = ALPHABET[: tree.vocabulary] if alphabet is None else alphabet
    if len(letters) < tree.vocabulary:
        raise LabError(
            f"environment.alphabet: {tree.vocabulary} tokens are more than the {len(ALPHABET)} characters of abc...; "
            "give an alphabet to read or write responses"
        )
    return letters


def _prompt(row: Ranking, prompts: int) -> int:
    known = {str(number): number for number in range(prompts)}
    if not isinstance(row.prompt, str) or row.prompt.strip() not in known:
        raise _unreadable(row.place, "prompt", row.prompt, f"prompts are numbered '0' to '{prompts - 1}'")
    return known[row.prompt.strip()]


def _number(text: Text, tree: TokenTree, letters: dict[str, int], place: str) -> int:
    """Return the number of a response in words."""
    if not isinstance(text, str):
        raise _unreadable(place, "response", text, "expected plain text, one character per token")
    unknown = [letter for letter in text if letter not in letters]
    if unknown:
        raise _unreadable(place, "response", text, f"{unknown[0]!r} is no token; tokens: {''.join(letters)}")
    tokens = [letters[letter] for letter in text]
    end = tokens.index(tree.eos) + 1 if tree.eos in tokens else tree.length
    if len(tokens) != end:
        ending = "" if tree.eos is None else f"with {list(letters)[tree.eos]!r} or "
        raise _unreadable(
            place, "response", text, f"a response ends {ending}after {tree.length} tokens, and only there"
        )
    edge = 0
    for token in tokens[:-1]:
        edge = edge * tree.vocabulary + token + 1  # a prefix's first child is V p + 1
    return int(tree.response_of[edge * tree.vocabulary + tokens[-1]])


def _unreadable(place: str, what: str, found: object, why: str) -> LabError:
    return LabError(f"{place}: {what} {found!r}: {why}" if place else f"{what} {found!r}: {why}")
