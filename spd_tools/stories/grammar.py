"""Rules and lexicon -> steps that tell stories, checked so that every text has one derivation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spd_tools.stories import plots, templates
from spd_tools.stories.morphology import takes_an
from spd_tools.stories.steps import Branch, Call, Outcome, Step, Write
from spd_tools.stories.telling import Telling
from spd_tools.stories.templates import Called, Conjugated, Drawn, Ended, Recalled, Spelled
from spd_tools.stories.word_steps import Conjugate, Draw, DrawAfterArticle, DrawVerb, Recall, Spelling
from spd_tools.stories.words import Lexicon, Speller, Word

END_OF_STORY = "<|endoftext|>"
"""The token after a story; its text never occurs in one."""

_Alternative = tuple[float, list[templates.Step]]


class Grammar:
    """A probabilistic grammar of stories with memory: names, pronouns, tense and facts carry on through a story.

    Args:
        rules: name -> lines ``weight | template`` (see ``plots``).
        lexicon: the words.

    Raises:
        AssertionError: two alternatives of a rule can begin with the same token, or a rule or word is not there.
    """

    def __init__(self, rules: dict[str, str] = plots.RULES, lexicon: Lexicon | None = None) -> None:
        self.lexicon = lexicon or Lexicon()
        self._parsed = {name: templates.parse_rule(text) for name, text in rules.items()}
        self._roles = self._words_of_roles()
        self._speller = self._make_speller(rules)
        self._compiled: dict[tuple[str, bool], list[Step]] = {}
        self.steps: list[Step] = []
        """Every step of every rule."""
        self.start = self._rule(plots.START, spaced=False)

    def tell(self, telling: Telling) -> None:
        """Tell one story from its beginning to its end token."""
        for step in self.start:
            step.run(telling)

    def outcomes(self) -> list[Outcome]:
        """Every sequence of tokens that one step can write, with the category of the word that it is."""
        return [outcome for step in self.steps for outcome in step.outcomes()]

    def _words_of_roles(self) -> dict[str, dict[Word, None]]:
        """role -> every word that it can be."""
        roles: dict[str, dict[Word, None]] = {}
        drawn = [s for rule in self._parsed.values() for _, steps in rule for s in steps if isinstance(s, Drawn)]
        for plain in (True, False):  # facts of roles are known once the roles are
            for step in drawn:
                if (step.of is None) == plain:
                    for name in self._categories(step, roles):
                        roles.setdefault(step.role, {}).update(dict.fromkeys(self.lexicon.categories[name].words))
        return roles

    def _categories(self, step: Drawn, roles: dict[str, dict[Word, None]]) -> list[str]:
        if step.of is None:
            return [step.category]
        return list(dict.fromkeys(word.facts[step.category] for word in roles[step.of] if step.category in word.facts))

    def _make_speller(self, rules: dict[str, str]) -> Speller:
        text = "\n".join(rules.values())
        verbs = self.lexicon.verbs() | set(re.findall(r"\[(\w+)\+?\]", text))
        counted = set(re.findall(r"\{=?([\w ]+)(?::[@\w .]+)?\.[Pp]lural", text))
        drawn = [s for rule in self._parsed.values() for _, steps in rule for s in steps if isinstance(s, Drawn)]
        nouns = {word.text for s in drawn if s.role in counted for word in self._roles[s.role]}
        return Speller(nouns, verbs | {w.text for r in self._verb_roles() for w in self._roles[r]})

    def _verb_roles(self) -> set[str]:
        steps = [s for rule in self._parsed.values() for _, steps in rule for s in steps]
        return {s.verb for s in steps if isinstance(s, Conjugated) and s.kind == "role"}

    def _rule(self, name: str, *, spaced: bool) -> list[Step]:
        key = (name, spaced)
        if key not in self._compiled:
            self._compiled[key] = []  # rules may call each other; the list is filled in place
            ways = [(weight, self._pieces(steps, spaced)) for weight, steps in self._parsed[name]]
            self._compiled[key] += self._merged(name, ways)
        return self._compiled[key]

    def _pieces(self, steps: list[templates.Step], spaced: bool) -> list[templates.Step]:
        """Steps with the space before the rule moved into the first one, and text cut into single tokens."""
        pieces: list[templates.Step] = []
        for n, step in enumerate(steps):
            step = templates.with_space(step) if n == 0 and spaced else step
            pieces += (
                [Spelled(token) for token in self._speller.text(step.text)] if isinstance(step, Spelled) else [step]
            )
            last = pieces[-1]
            if isinstance(last, Drawn | Recalled) and last.article and not self._any_an(last):
                pieces[-1:] = [Spelled(last.article), templates.without_article(last)]
        return pieces

    def _any_an(self, step: Drawn | Recalled) -> bool:
        return any(takes_an(word.text) for word in self._words(step))

    def _words(self, step: Drawn | Recalled) -> list[Word]:
        if isinstance(step, Recalled):
            return list(self._roles[step.role])
        names = self._categories(step, self._roles)
        return list(dict.fromkeys(word for name in names for word in self.lexicon.categories[name].words))

    def _merged(self, name: str, ways: Sequence[tuple[float, list[templates.Step]]]) -> list[Step]:
        """Alternatives -> what they have in common, then the choice between the rest."""
        common: list[templates.Step] = []
        while all(len(way) > len(common) for _, way in ways):
            step = ways[0][1][len(common)]
            if any(way[len(common)] != step for _, way in ways):
                break
            common.append(step)
        steps = self._steps(common)
        rests = [(weight, way[len(common) :]) for weight, way in ways]
        if len(rests) == 1:
            return steps
        assert all(rest for _, rest in rests), f"{name}: an alternative ends where another goes on"
        groups: dict[templates.Step, list[tuple[float, list[templates.Step]]]] = {}
        for weight, rest in rests:
            groups.setdefault(rest[0], []).append((weight, rest))
        self._check(name, list(groups))
        branch = Branch(
            [sum(weight for weight, _ in group) for group in groups.values()],
            [self._merged(name, group) for group in groups.values()],
        )
        self.steps.append(branch)
        return [*steps, branch]

    def _check(self, name: str, firsts: list[templates.Step]) -> None:
        """No two alternatives begin with the same token."""
        tokens = [self._steps([step])[0].firsts(None) for step in firsts]
        for n, some in enumerate(tokens):
            for m in range(n):
                both = some & tokens[m]
                assert not both or _never_equal(firsts[n], firsts[m]), f"{name}: two alternatives begin with {both}"

    def _steps(self, pieces: list[templates.Step]) -> list[Step]:
        steps: list[Step] = []
        text: list[str] = []
        for piece in [*pieces, None]:
            if isinstance(piece, Spelled | Ended):
                text.append(piece.text if isinstance(piece, Spelled) else END_OF_STORY)
                continue
            if text:
                steps.append(Write(tuple(text)))
                text = []
            if piece is not None:
                steps.append(self._step(piece))
        self.steps += steps
        return steps

    def _step(self, piece: Drawn | Recalled | Conjugated | Called) -> Step:
        if isinstance(piece, Conjugated):
            return self._verb(piece)
        if isinstance(piece, Called):
            fact = None if piece.of is None else (piece.of, piece.rule)
            names = [piece.rule]
            if piece.of is not None:
                names = list(dict.fromkeys(w.facts[piece.rule] for w in self._roles[piece.of] if piece.rule in w.facts))
            return Call({name: self._rule(name, spaced=piece.spaced) for name in names}, fact)
        spelling = Spelling(self._speller, self._words(piece), piece.form, spaced=piece.spaced)
        if isinstance(piece, Recalled):
            return Recall(piece.role, spelling, piece.article)
        categories = {name: self.lexicon.categories[name] for name in self._categories(piece, self._roles)}
        fact = None if piece.of is None else (piece.of, piece.category)
        draw = Draw(piece.role, categories, spelling, fact=fact, other_than=piece.other_than)
        return DrawAfterArticle(piece.article, draw) if piece.article else draw

    def _verb(self, piece: Conjugated) -> Step:
        if piece.kind == "category":
            category = self.lexicon.categories[piece.verb]
            return DrawVerb(self._speller, category, many=piece.many, spaced=piece.spaced)
        words = list(self._roles[piece.verb]) if piece.kind == "role" else [Word(piece.verb, "verb")]
        role = piece.verb if piece.kind == "role" else None
        return Conjugate(self._speller, words, role=role, many=piece.many, spaced=piece.spaced)


def _never_equal(one: templates.Step, other: templates.Step) -> bool:
    """Whether two slots always hold different words because one was drawn so."""
    for first, second in ((one, other), (other, one)):
        if isinstance(first, Drawn) and isinstance(second, Recalled) and first.other_than == second.role:
            return True
    roles = {step.role for step in (one, other) if isinstance(step, Recalled)}
    return roles == {"hero", "friend"}
