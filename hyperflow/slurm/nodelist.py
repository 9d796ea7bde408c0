"""Slurm's lists of nodes, such as `n[1-3,07-09],gpu[1-2]-ib[0-1],login`, to names.

    list   = [entry] { "," [entry] }                empty entries count for nothing, as in Slurm
    entry  = { text | "[" range { "," range } "]" }
    range  = digits [ "-" digits ]                  as wide as its first number: 07-10 is 07 08 09 10

The order is Slurm's own, because `SLURM_JOB_CPUS_PER_NODE` follows it. An entry's last bracket runs fastest, as one
expects, but of the others the first one does: `[1-2]-[3-4]-[5-6]` begins 1-3-5, 1-3-6, 2-3-5.

Unlike Slurm, this takes text after the last bracket, and refuses blanks and a range without an end (`n[3-]`, which
Slurm reads as n3).
"""

from __future__ import annotations

import itertools
import math
import re

from hyperflow.errors import ConfigurationError, SlurmError

MOST_NODES = 65536
"""The most nodes of one entry; Slurm has this limit for one range."""

_TEXT = re.compile(r"[^\[\],\s\\/\0-\x1f\x7f-\x9f]+")
_RANGE = re.compile(r"([0-9]{1,32})(?:-([0-9]{1,32}))?")


def expand(text: str) -> tuple[str, ...]:
    """Return the names in a list of nodes, in Slurm's order and as often as they are in it.

    Raises:
        SlurmError: It is no list of nodes; the error shows where.
    """
    return _Reader(text).read()


def excluded(text: str) -> frozenset[str]:
    """Return the names in the setting `exclude_nodes`; raises ConfigurationError if it is no list of nodes."""
    try:
        return frozenset(expand(text))
    except SlurmError as error:
        raise ConfigurationError(f"exclude_nodes = {text!r}: {error}") from None


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> tuple[str, ...]:
        names: list[str] = []
        while self.at < len(self.text):
            if self.text[self.at] == ",":
                self.at += 1
            else:
                names += self._entry()
        return tuple(names)

    def _entry(self) -> list[str]:
        start = self.at
        texts = [""]  # before, between and after the brackets
        brackets: list[list[str]] = []
        while self.at < len(self.text) and self.text[self.at] != ",":
            if self.text[self.at] == "[":
                brackets.append(self._bracket())
                if math.prod(map(len, brackets)) > MOST_NODES:
                    raise self._error(f"more than {MOST_NODES} nodes", start)
                texts.append("")
            elif match := _TEXT.match(self.text, self.at):
                texts[-1] = match[0]
                self.at = match.end()
            elif self.text[self.at] == "]":
                raise self._error("this bracket was never opened", self.at)
            else:
                sign = self.text[self.at]
                shown = "a blank" if sign in " \t" else ascii(sign).strip("'")
                raise self._error(f"{shown} is no part of a node's name", self.at)
        return [_join(texts, numbers) for numbers in _in_slurms_order(brackets)]

    def _bracket(self) -> list[str]:
        opened = self.at
        numbers: list[str] = []
        while True:
            self.at += 1  # the bracket, or a comma
            numbers += self._range(opened)
            match self.text[self.at : self.at + 1]:
                case "]":
                    self.at += 1
                    return numbers
                case ",":
                    pass
                case "":
                    raise self._error("this bracket is never closed", opened)
                case _:
                    raise self._error("here should be a number, `-`, `,` or `]`", self.at)

    def _range(self, opened: int) -> list[str]:
        match = _RANGE.match(self.text, self.at)
        if match is None:
            if self.at == len(self.text):
                raise self._error("this bracket is never closed", opened)
            raise self._error("here should be a number", self.at)
        first, last = match[1], match[2] or match[1]
        count = int(last) - int(first) + 1
        if count < 1:
            raise self._error("this range runs backwards", self.at)
        if count > MOST_NODES:
            raise self._error(f"more than {MOST_NODES} nodes", self.at)
        self.at = match.end()
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]

    def _error(self, reason: str, at: int) -> SlurmError:
        shown, column = self.text, at
        if len(shown) > 100:  # the part around it is enough
            begin = max(0, at - 40)
            shown, column = shown[begin : begin + 80], at - begin
        # one sign for each, so that the caret stands below the right one
        shown = "".join(sign if sign.isprintable() else " " for sign in shown)
        return SlurmError(f"not a list of nodes: {reason}\n  {shown}\n  {' ' * column}^")


def _in_slurms_order(brackets: list[list[str]]) -> list[tuple[str, ...]]:
    # Slurm splits the last bracket off, then works from right to left through the rest, each one outside the next.
    if len(brackets) < 3:
        return list(itertools.product(*brackets))
    *front, last = brackets
    return [(*reversed(numbers), final) for *numbers, final in itertools.product(*reversed(front), last)]


def _join(texts: list[str], numbers: tuple[str, ...]) -> str:
    return texts[0] + "".join(number + text for number, text in zip(numbers, texts[1:], strict=True))
