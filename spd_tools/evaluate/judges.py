"""Trials as questions to a language model: prompts, what answers must be, and what they are worth.

Whatever comes from a data set or from somebody's label is data: it stands on lines of its own between tags, with
everything that could end a line, hide or pass for our marks made visible, and cut where it is too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from spd_tools.evaluate.dealing import LEVELS
from spd_tools.evaluate.statistics import Graded, grade
from spd_tools.evaluate.trials import Trial
from spd_tools.llm import Call
from spd_tools.render.safe import visible
from spd_tools.store.tokentext import TokenText

DEFAULT_MODEL = "claude-haiku-5-5"
MAX_ANSWER_TOKENS = 2_000
"""Thinking included; a plain answer takes about twenty."""
MAX_LABEL = 2_000
"""Characters of a label that a judge is shown."""
MAX_TOKEN = 60
"""Characters of a token that a judge is shown."""
_OPEN, _CLOSE, _BEGAN_EARLIER = "«", "»", "…"


@dataclass(frozen=True)
class Question:
    """What a judge is asked about one trial."""

    system: str
    prompt: str
    schema: type[BaseModel]


def question(trial: Trial, label: str | None, spelling: TokenText) -> Question:
    """The question that a trial puts.

    Args:
        trial: what is shown.
        label: of the component, or somebody's who claims to be; not looked at for "intruder". Blank or None: the judge
            is told that there is none.
        spelling: of the harvest's tokens.
    """
    about: dict[str, Any] = {"label": shown_label(label), "n": len(trial.windows)}
    if trial.score == "simulation":
        [window] = trial.windows
        texts = [_shown_token(text) for text in spelling.running(window.token_ids, window.marked)]
        about["tokens"] = [text.strip(" ") or text or "∅" for text in texts]
        schema = levels_schema(len(texts))
    else:
        about["windows"] = window_texts(trial, spelling)
        schema = intruder_schema(len(trial.windows)) if trial.score == "intruder" else choice_schema(len(trial.windows))
    environment = _environment()
    return Question(
        system=environment.get_template(f"{trial.score}_system.j2").render(about).strip(),
        prompt=environment.get_template(f"{trial.score}.j2").render(about).strip(),
        schema=schema,
    )


def judge_call(trial: Trial, label: str | None, spelling: TokenText, model: str) -> Call:
    """The question as a call to a model."""
    asked = question(trial, label, spelling)
    return Call(
        purpose=trial.score,
        model=model,
        system=asked.system,
        prompt=asked.prompt,
        schema=asked.schema,
        max_tokens=MAX_ANSWER_TOKENS,
        effort="low",
        tag=str(trial.key),
    )


def judged(trial: Trial, answer: Any) -> Graded:
    """An answer (an instance of the question's schema) beside the truth."""
    if trial.score == "intruder":
        return grade(trial, answer.intruder - 1)
    if trial.score == "simulation":
        levels = {level.token: level.level for level in answer.active}
        return grade(trial, [float(levels.get(number, 0)) for number in range(1, len(trial.levels) + 1)])
    return grade(trial, [number in answer.numbers for number in range(1, len(trial.windows) + 1)])


# --- texts ----------------------------------------------------------------------------------------------------------


def shown_label(label: str | None) -> str:
    """A label as a judge reads it: on one line, cut where it is too long; "" where there is none."""
    text = _harmless(visible(" ".join((label or "").split())))
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def window_texts(trial: Trial, spelling: TokenText) -> list[str]:
    """A trial's windows as a judge reads them, marked tokens in «»."""
    return [
        _BEGAN_EARLIER * (window.start > 0)
        + marked_text(spelling.running(window.token_ids, marks[0] if marks else window.marked), marks)
        for window, marks in zip(trial.windows, trial.marks, strict=True)
    ]


def marked_text(texts: Sequence[str], marks: Sequence[int]) -> str:
    """Tokens in a row on one line, those at ``marks`` in «»; a marked token's spaces stand outside."""
    parts: list[str] = []
    for place, text in enumerate(map(_shown_token, texts)):
        if place in marks:
            core = text.strip(" ")
            before, after = text[: len(text) - len(text.lstrip(" "))], text[len(text.rstrip(" ")) :]
            text = f"{before}{_OPEN}{core}{_CLOSE}{after}" if core else f"{_OPEN}{text or '∅'}{_CLOSE}"
        parts.append(text)
    return "".join(parts)


def _shown_token(text: str) -> str:
    shown = _harmless(visible(text))
    return shown if len(shown) <= MAX_TOKEN else shown[: MAX_TOKEN - 1] + "…"


def _harmless(text: str) -> str:
    """Text that holds neither our marks nor a tag that would end it."""
    return text.replace(_OPEN, "<U+00AB>").replace(_CLOSE, "<U+00BB>").replace("</", "<∕")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("spd_tools.evaluate"),
        undefined=StrictUndefined,
        autoescape=False,  # these are prompts: what must not steer them was made harmless above
        trim_blocks=True,
        lstrip_blocks=True,
    )


# --- answers --------------------------------------------------------------------------------------------------------


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Level(_Answer):
    """How active the unit is on one token."""

    token: int
    level: int = Field(ge=1, le=LEVELS)


@lru_cache(maxsize=64)
def intruder_schema(n: int) -> type[BaseModel]:
    """{"intruder": number of a window}"""
    number = (int, Field(ge=1, le=n, description=f"number of the intruder, 1 to {n}"))
    return create_model("Intruder", __base__=_Answer, intruder=number)


@lru_cache(maxsize=64)
def choice_schema(n: int) -> type[BaseModel]:
    """{"numbers": numbers of windows}, none twice."""

    def check(numbers: list[int]) -> list[int]:
        return _numbers(numbers, n)

    # Any: pyright takes what is annotated with a function of ours for no type.
    listed: Any = (Annotated[list[int], AfterValidator(check)], Field(description=f"numbers of excerpts, 1 to {n}"))
    return create_model("Choice", __base__=_Answer, numbers=listed)


@lru_cache(maxsize=64)
def levels_schema(n: int) -> type[BaseModel]:
    """{"active": [{"token": number, "level": 1 to 10}]}, no token twice."""

    def check(levels: list[Level]) -> list[Level]:
        _numbers([level.token for level in levels], n)
        return levels

    about = Field(description=f"tokens by their numbers, 1 to {n}, and their levels")
    listed: Any = (Annotated[list[Level], AfterValidator(check)], about)
    return create_model("Levels", __base__=_Answer, active=listed)


def _numbers(numbers: list[int], n: int) -> list[int]:
    """
    Raises:
        ValueError: unless they are distinct numbers from 1 to n.
    """
    if not all(1 <= number <= n for number in numbers):
        raise ValueError(f"a number is not among 1 to {n}")
    if len(set(numbers)) != len(numbers):
        raise ValueError("a number comes twice")
    return numbers
