"""The small language of ``plots``: a template's text -> what is to be done, step by step."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

END = "$"
"""The end of a story, in templates."""

_PARTS = re.compile(r"(?P<slot>\{[^}]*\})|(?P<verb>\[[^\]]*\])|(?P<rule><[^>]*>)|(?P<end>\$)|(?P<text>[^{\[<$]+)")
_ARTICLE = re.compile(r"(^|.*[^A-Za-z])([aA])$", re.DOTALL)


@dataclass(frozen=True)
class Spelled:
    """Fixed text."""

    text: str


@dataclass(frozen=True)
class Drawn:
    """A word to be drawn and remembered."""

    role: str
    """The name it is remembered by."""
    category: str
    """A category; with ``of``, the fact of the word remembered as ``of`` that names the category."""
    of: str | None
    other_than: str | None
    """A role whose word is left out."""
    form: str
    spaced: bool
    article: str = ""
    """The indefinite article before it, as it would be before a consonant, with its space."""


@dataclass(frozen=True)
class Recalled:
    """A remembered word."""

    role: str
    form: str
    spaced: bool
    article: str = ""


@dataclass(frozen=True)
class Conjugated:
    """A verb in the tense of the story."""

    verb: str
    """A verb, a category of verbs or a role."""
    kind: str
    """"verb", "category" or "role"."""
    many: bool
    spaced: bool


@dataclass(frozen=True)
class Called:
    """A rule."""

    rule: str
    """A rule; with ``of``, the fact of the word remembered as ``of`` that names it."""
    of: str | None
    spaced: bool


@dataclass(frozen=True)
class Ended:
    """The end of the story."""


Step = Spelled | Drawn | Recalled | Conjugated | Called | Ended


def parse_rule(text: str) -> list[tuple[float, list[Step]]]:
    """A rule's lines -> weight and steps of each alternative."""
    alternatives: list[tuple[float, list[Step]]] = []
    for line in text.strip().splitlines():
        weight, _, template = line.partition("|")
        alternatives.append((float(weight), parse_template(template.strip())))
    return alternatives


def parse_template(template: str) -> list[Step]:
    """A template's steps."""
    steps: list[Step] = []
    for match in _PARTS.finditer(template):
        part = match.group()
        before = steps[-1] if steps else None
        spaced = isinstance(before, Spelled) and before.text.endswith(" ")
        if spaced:
            assert isinstance(before, Spelled)
            steps[-1] = replace(before, text=before.text[:-1])
        step: Step
        if match["text"]:
            step = Spelled(part)
        elif match["end"]:
            step = Ended()
        elif match["verb"]:
            step = _verb(part[1:-1], spaced)
        elif match["rule"]:
            rule, of = _of(part[1:-1])
            step = Called(rule, of, spaced)
        else:
            step = _slot(part[1:-1], spaced)
            if isinstance(step, Drawn | Recalled):
                step = _with_article(steps, step)
        steps.append(step)
    return [step for step in steps if step != Spelled("")]


def _with_article(steps: list[Step], step: Drawn | Recalled) -> Drawn | Recalled:
    """Take "a" from the text before a slot into the slot."""
    before = steps[-1] if steps else None
    if not (step.spaced and isinstance(before, Spelled) and (match := _ARTICLE.match(before.text))):
        return step
    rest = match[1]
    space = " " if rest.endswith(" ") else ""
    steps[-1] = Spelled(rest.removesuffix(" "))
    return replace(step, article=space + match[2])


def _slot(text: str, spaced: bool) -> Drawn | Recalled:
    if text.startswith("="):
        role, _, form = text[1:].partition(".")
        return Recalled(role, form, spaced)
    if text.startswith("@"):
        fact = text[1:].partition(".")[2]
        text = f"{fact}:{text}"
    role, _, rest = text.partition(":")
    if not rest:
        # The form stands behind the category, which is also the role.
        role, rest = text.partition(".")[0], text
    rest, _, other_than = rest.partition("!")
    if rest.startswith("@"):
        of, category, *form = rest[1:].split(".")
        return Drawn(role, category, of, other_than or None, "".join(form), spaced)
    category, _, form = rest.partition(".")
    return Drawn(role, category, None, other_than or None, form, spaced)


def _verb(text: str, spaced: bool) -> Conjugated:
    many = text.endswith("+")
    text = text.removesuffix("+")
    kind = {"*": "category", "=": "role"}.get(text[0], "verb")
    return Conjugated(text.lstrip("*="), kind, many, spaced)


def _of(text: str) -> tuple[str, str | None]:
    if not text.startswith("@"):
        return text, None
    of, fact = text[1:].split(".")
    return fact, of


def with_space(step: Step) -> Step:
    """A step as it is after a space."""
    if isinstance(step, Spelled):
        return replace(step, text=" " + step.text)
    if isinstance(step, Drawn | Recalled) and step.article:
        return replace(step, article=" " + step.article)
    return step if isinstance(step, Ended) else replace(step, spaced=True)


def without_article(step: Drawn | Recalled) -> Drawn | Recalled:
    """The slot alone."""
    return replace(step, article="")
