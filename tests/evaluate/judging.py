"""Judges that need no language model: they read our prompts as a model would, and answer by a rule."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from llm.stand_in import Asked, Say

from spd_tools.decompositions.planted import PlantedDecomposition
from spd_tools.decompositions.planted.rules import Rule

EARLIER = 30
"""Unknown tokens that are put before a window that does not begin with its row."""
NEAR = 8
"""Tokens that most rules look back at most."""
Marked = tuple[list[int], list[int], int]
"""(token ids, their marked places, where the window begins in them)"""


def section(prompt: str, name: str) -> str:
    """What stands between a prompt's tags."""
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", prompt, re.DOTALL)
    assert found is not None, prompt
    return found[1]


def lines(prompt: str, name: str) -> list[str]:
    """The numbered lines between a prompt's tags."""
    listed = section(prompt, name).split("\n")
    for number, line in enumerate(listed, 1):
        assert line.startswith(f"[{number}] ")
    return [line.partition("] ")[2] for line in listed]


def guess(prompt: str, n: int, salt: object = 0) -> int:
    """A number below n, by a hash."""
    return int.from_bytes(hashlib.sha256(f"{salt} {prompt}".encode()).digest()[:8], "big") % n


class PlantedJudge:
    """Knows the planted rules, and finds the one that it is asked about by the label."""

    def __init__(self, decomposition: PlantedDecomposition) -> None:
        self._words = {word: number for number, word in enumerate(decomposition.words)}
        self._rules = {rule.description: rule for rule in decomposition.rules.values()}
        self._known = [rule for rule in decomposition.rules.values() if rule.kind != "random"]

    def __call__(self, asked: Asked) -> Say:
        return Say(self.answer(asked.system, asked.prompt))

    def answer(self, system: str, prompt: str) -> dict[str, Any]:
        """The answer's JSON."""
        if "Find the intruder" in system:
            return {"intruder": self._intruder(prompt)}
        rule = self._rules.get(section(prompt, "description"))
        if "Predict how active" in system:
            return {"active": [] if rule is None else self._levels(rule, lines(prompt, "tokens"))}
        windows = self.windows(prompt)
        if rule is None:
            return {"numbers": [n for n in range(1, len(windows) + 1) if guess(prompt, 2, n)]}
        return self.numbers(rule, windows)

    def windows(self, prompt: str) -> list[Marked]:
        """The excerpts of a prompt."""
        return [self._read(line) for line in lines(prompt, "excerpts")]

    def numbers(self, rule: Rule, windows: list[Marked]) -> dict[str, Any]:
        """Which of them have marks that the rule fires on."""
        return {"numbers": [number for number, window in enumerate(windows, 1) if self._fires(rule, window)]}

    def _read(self, line: str) -> Marked:
        earlier = EARLIER if line.startswith("…") else 0
        words = line.removeprefix("…").split()
        marks = [earlier + at for at, word in enumerate(words) if word.startswith("«")]
        return [0] * earlier + [self._words[word.strip("«»")] for word in words], marks, earlier

    @staticmethod
    def _fires(rule: Rule, window: Marked) -> bool:
        tokens, marks, _ = window
        return all(rule.fires(tokens, mark) for mark in marks)

    def _intruder(self, prompt: str) -> int:
        """The window in which the marks are not those of the rule that explains the marks of all others best."""
        windows = self.windows(prompt)
        found = []
        for rule in self._known:
            fits = [self._fires(rule, self._clear(window)) for window in windows]
            if sum(fits) == len(fits) - 1:
                missed = [self._unmarked(rule, window) for window, fit in zip(windows, fits, strict=True) if fit]
                found.append((sum(missed), fits.index(False) + 1))
        return min(found)[1] if found else 1 + guess(prompt, len(windows))

    @staticmethod
    def _clear(window: Marked) -> Marked:
        """Without marks next to a cut: what they are for may have been cut off."""
        tokens, marks, earlier = window
        return tokens, [mark for mark in marks if not earlier or mark >= earlier + NEAR] or marks, earlier

    @staticmethod
    def _unmarked(rule: Rule, window: Marked) -> int:
        """Tokens that are not marked although the rule fires on them, those next to a cut left out."""
        tokens, marks, earlier = window
        begin = earlier + NEAR if earlier else 0
        return sum(rule.fires(tokens, at) for at in range(begin, len(tokens)) if at not in marks)

    def _levels(self, rule: Rule, words: list[str]) -> list[dict[str, int]]:
        tokens = [0] * EARLIER + [self._words[word] for word in words]
        found = {n: rule.activation(tokens, EARLIER + n) for n in range(len(words)) if rule.fires(tokens, EARLIER + n)}
        most = max((abs(value) for value in found.values()), default=1.0)
        return [{"token": n + 1, "level": max(1, min(10, round(10 * abs(value) / most)))} for n, value in found.items()]
