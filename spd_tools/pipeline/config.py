"""What a pipeline does: a YAML file with a section per step. A section that is null skips its step.

    harvest: {n_batches: 2000, batch_size: 32, n_gpus: 24}   # null, or left out: a finished harvest is taken
    intruder: {budget: 5}
    interpret:
      limit: 1000
      budget: 20
      evals: {detection: {limit: 200}, fuzzing: null}

What is left out has its default; ``evals``, ``intruder`` and ``interpret`` are done unless they are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.judges import DEFAULT_MODEL
from spd_tools.evaluate.statistics import LOOKS
from spd_tools.harvest import HarvestRequest
from spd_tools.interpret import InterpretRequest
from spd_tools.llm import Prices
from spd_tools.llm.model import MAX_CONCURRENT
from spd_tools.store.records import Record
from spd_tools.suggest import did_you_mean

ASKING = ("intruder", "interpret", "detection", "fuzzing")
"""Steps that ask a language model."""
_OF_LAUNCH = {"n_gpus", "max_concurrent"}


def _batches(value: object) -> object:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f'{value!r} is neither a number of batches nor "all"')


def _any_gpu(device: str | None) -> str | None:
    if device is not None and device.startswith("cuda:"):
        raise ValueError(f"every worker sees one GPU, as cuda; write that instead of {device}")
    return device


def _priced(model: str) -> str:
    Prices.load().of(model)
    return model


Batches = Annotated[int | Literal["all"], BeforeValidator(_batches)]
Positive = Annotated[int, Field(ge=1)]
Concurrent = Annotated[int, Field(ge=1, le=MAX_CONCURRENT)]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Model = Annotated[str, AfterValidator(_priced)]


class HarvestSection(Record):
    """What to harvest: the fields of ``HarvestRequest``, and how many workers do it."""

    n_batches: Batches
    """Global batches."""
    batch_size: Positive
    """Rows per batch."""
    n_gpus: Positive = 1
    """Workers, a GPU each; on a machine without any, processes."""
    max_concurrent: Positive | None = None
    """Most workers at a time."""
    data: str | None = None
    split: str | None = None
    column: str | None = None
    seq_len: Positive | None = None
    tokenizer: str | None = None
    packing: Literal["packed", "cut"] = "packed"
    exclude_tokens: tuple[int, ...] = ()
    device: Annotated[str | None, AfterValidator(_any_gpu)] = None
    precision: Literal["f32", "bf16"] = "f32"
    threshold: float | None = None
    p_min: float = 1e-3
    n_uniform: int = Field(default=100, ge=0)
    n_top: int = Field(default=100, ge=0)
    window: int = Field(default=20, ge=0)
    log_tokens: int = Field(default=1_000_000, ge=0)
    seed: int = Field(default=0, ge=0)
    memory_gb: float = Field(default=2.0, gt=0)

    def request(self, run: str) -> HarvestRequest:
        """The request of ``n_gpus`` ranks."""
        fields = self.model_dump(exclude={*_OF_LAUNCH, "n_batches"})
        n_batches = None if self.n_batches == "all" else self.n_batches
        return HarvestRequest(run=run, n_batches=n_batches, world_size=self.n_gpus, **fields)


class JudgeSection(Record):
    """How components are scored; ``evaluate.plan.settings_of`` says what the fields mean."""

    keys: list[str] | None = None
    limit: Positive | None = None
    n_trials: Annotated[int, Field(ge=LOOKS[0])] | None = None
    precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: int = Field(default=0, ge=0)
    model: Model = DEFAULT_MODEL
    max_concurrent: Concurrent = 50
    budget: Dollars | None = None
    """Dollars for this evaluation, whatever it has cost so far included."""
    batch: bool = False
    """Message batches: half the price, within 24 hours."""


class EvalSection(JudgeSection):
    """How labels are scored."""

    baselines: bool = True


class EvalsSection(Record):
    """Scores of the labels."""

    detection: EvalSection | None = EvalSection()
    fuzzing: EvalSection | None = EvalSection()


class InterpretSection(InterpretRequest):
    """What to label, and how, and how the labels are scored."""

    limit: Positive | None = None
    model: Model = InterpretRequest.model_fields["model"].default
    max_concurrent: Concurrent = 50
    budget: Dollars | None = None
    evals: EvalsSection | None = EvalsSection()

    @property
    def request(self) -> InterpretRequest:
        """The labelling alone."""
        return InterpretRequest(**self.model_dump(exclude={"evals"}))


class PipelineConfig(Record):
    """A section per step."""

    harvest: HarvestSection | None = None
    """None: a harvest that is there already."""
    intruder: JudgeSection | None = JudgeSection()
    interpret: InterpretSection | None = InterpretSection()

    @property
    def judged(self) -> dict[str, JudgeSection]:
        """Score -> section, of the scores that are to be made."""
        evals = self.interpret.evals if self.interpret is not None else None
        sections = {
            "intruder": self.intruder,
            "detection": evals and evals.detection,
            "fuzzing": evals and evals.fuzzing,
        }
        return {name: section for name, section in sections.items() if section is not None}


def read_config(
    path: Path | None, *, harvest: Mapping[str, Any] | None = None, budgets: Mapping[str, float] | None = None
) -> PipelineConfig:
    """The configuration of a file, with flags on top.

    Args:
        path: YAML; None: all defaults.
        harvest: fields of the section ``harvest``.
        budgets: step -> dollars.

    Raises:
        SpdToolsError: for what cannot be read, unknown fields, values that do not fit and budgets of skipped steps.
    """
    document = {} if path is None else _read(path)
    what = "The configuration" if path is None else str(path)
    if harvest:
        document["harvest"] = _section(document, "harvest", what) | dict(harvest)
    for step, dollars in (budgets or {}).items():
        _set_budget(document, step, dollars, what)
    try:
        return PipelineConfig.model_validate(document)
    except ValidationError as error:
        raise SpdToolsError(_sentence(what, error)) from None


def _set_budget(document: dict[str, Any], step: str, dollars: float, what: str) -> None:
    if step not in ASKING:
        raise SpdToolsError(f"--budget {step}: no step of that name asks a language model; {_known(step, ASKING)}")
    names = ("interpret", "evals", step) if step in ("detection", "fuzzing") else (step,)
    section, place = document, what
    for name in names:
        if name in section and section[name] is None:
            raise SpdToolsError(f"--budget {step}: {what} skips that step ({name} is null); leave one of them out.")
        section[name] = dict(_section(section, name, place))
        section, place = section[name], f"{place}, {name}"
    section["budget"] = dollars


def _section(document: Mapping[str, Any], name: str, what: str) -> dict[str, Any]:
    section = document.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise SpdToolsError(f"{what}: {name} is a section with fields, not {section!r}; correct it.")
    return section


class _Loader(yaml.SafeLoader):
    """safe_load that takes no name twice: the first of two sections would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise SpdToolsError(f"{path} cannot be read: {error.strerror}; name a YAML file.") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpdToolsError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); correct it.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SpdToolsError(f"{path} holds no sections; write lines such as `intruder: null`.")
    return document


_SECTIONS: dict[tuple[str, ...], type[Record]] = {
    (): PipelineConfig,
    ("harvest",): HarvestSection,
    ("intruder",): JudgeSection,
    ("interpret",): InterpretSection,
    ("interpret", "evals"): EvalsSection,
    ("interpret", "evals", "detection"): EvalSection,
    ("interpret", "evals", "fuzzing"): EvalSection,
}


def _sentence(what: str, error: ValidationError) -> str:
    first = error.errors()[0]
    loc = tuple(map(str, first["loc"]))
    place = ".".join(loc)
    match first["type"]:
        case "extra_forbidden":
            known = _SECTIONS[loc[:-1]].model_fields
            return f"{what} has an unknown field {place!r}; {_known(loc[-1], known)}"
        case "missing":
            return f"{what} lacks {place}; add it."
        case "value_error":
            complaint = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
            return f"{what}: {place}: {complaint}."
        case _:
            return f"{what}: {place}: {first['input']!r} does not do: {first['msg'][:1].lower()}{first['msg'][1:]}."


def _known(name: str, names: Any) -> str:
    return did_you_mean(name, names, "known ones")
