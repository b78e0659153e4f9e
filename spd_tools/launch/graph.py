"""What a job consists of: steps of one or many equal tasks, each after others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from spd_tools.store.records import Record

StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class Step(Record):
    """One or many tasks that differ in nothing but their rank."""

    name: StepName
    kind: str
    """What its tasks run: a name in ``spd_tools.launch.kinds``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The kind's arguments, the same for every rank."""
    after: tuple[StepName, ...] = ()
    """Steps all of whose tasks must have finished."""
    n_tasks: int = Field(default=1, ge=1, le=10_000)
    max_concurrent: int | None = Field(default=None, ge=1)
    """Tasks at once; None: as many as there is room for."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of one task; on a machine of the local executor that has none, its tasks run on the CPU."""
    here: bool = False
    """Runs on the machine that submits, before anything is queued: it needs the network, say."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """0, 1, ..., n_tasks - 1."""
        return tuple(range(self.n_tasks))


class Graph(Record):
    """Steps in an order in which they could be run one after the other."""

    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: dict[str, Step] = {}
        for step in self.steps:
            if step.name in seen:
                raise ValueError(f"two steps are called {step.name}")
            if unknown := [name for name in step.after if name not in seen]:
                raise ValueError(f"step {step.name} comes after {', '.join(unknown)}, which no earlier step is called")
            if step.here and not all(seen[name].here for name in step.after):
                raise ValueError(f"step {step.name} runs before anything is queued, but not what it comes after")
            seen[step.name] = step
        return self

    def step(self, name: str) -> Step:
        """The step of that name, which there must be."""
        return next(step for step in self.steps if step.name == name)

    def dependents(self, names: Iterable[str]) -> set[str]:
        """Steps that come after one of ``names``, directly or not."""
        found = set(names)
        begin = set(found)
        for step in self.steps:  # in this order one pass is enough
            if found.intersection(step.after):
                found.add(step.name)
        return found - begin
