"""What a result is worth among all that was asked about its component, and what would make it worth more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from spd_tools.annotations.multiplicity import LEVEL, controls_for, corrected, holds

if TYPE_CHECKING:
    from spd_tools.experiments.records import Result

_COMPONENTS = "components"
_RANKED = {"sweep": "tokens", "interact": "tokens", "position": "tokens", "ablate": _COMPONENTS}
"""Experiment -> what its controls are, among which it ranks what it is about."""


class Sizes(NamedTuple):
    """What controls can be drawn from; None where it is not known."""

    tokens: int | None
    components: int | None


UNKNOWN_SIZES = Sizes(None, None)


@dataclass(frozen=True)
class Worth:
    """P-values of everything that was asked about a component."""

    p_values: Mapping[str, float]
    """Id -> corrected p-value (see ``multiplicity``)."""
    sizes: Sizes
    of_what: str
    """What the family is made of, in words."""

    @classmethod
    def of(
        cls, p_values: Mapping[str, float], evidence: Sequence[Result], sizes: Sizes, experiment: str | None = None
    ) -> Worth:
        """What results are worth in a family.

        Args:
            p_values: id -> p-value of all results about the component.
            evidence: results that are cited; theirs count too.
            sizes: what more controls could be drawn from.
            experiment: the family is that of this experiment's results alone.
        """
        own = {result.id: result.p_value for result in evidence if result.p_value is not None}
        family = {name: p_value for name, p_value in {**p_values, **own}.items() if _is_of(name, experiment)}
        of_what = f"{experiment or ''} results with a p-value".strip()
        return cls(corrected(family) if own else {}, sizes, of_what)

    def enough(self, results: Sequence[Result]) -> bool:
        """Whether the corrected p-value of one of them is small enough. A result without p-value is not enough.

        All interventions have one: without it nobody could say what a result is worth among many.
        """
        return any(holds(self.p_values.get(result.id)) for result in results)

    def too_little(self, results: Sequence[Result], otherwise: str) -> str:
        """A sentence on the best of results that are not enough.

        Args:
            results: at least one.
            otherwise: what else can be done.
        """
        best = min(results, key=lambda result: self.p_values.get(result.id, 2.0))
        if best.p_value is None:
            return f"{best.id} has no p-value, which an intervention needs: run one that has and cite its id."
        n = len(self.p_values)
        return (
            f"{best.id} excludes its control with p = {best.p_value:.2g}, which is "
            f"{self.p_values[best.id]:.2g} when corrected (Holm) for the {n} {self.of_what} that are stored about "
            f"{best.request.key}, and must be at most {LEVEL}: {self._advice(best.request, n)}, or {otherwise}."
        )

    def _advice(self, request: Any, n_results: int) -> str:
        name = request.experiment
        if not _ends_at_a_rank(request):
            more = "contexts, controls or tokens that the label names" if name in ("sweep", "interact") else "contexts"
            return f"run {name} again with more {more} and cite that"
        needed = controls_for(n_results)
        most, why = self._most_controls(request)
        if needed <= most:
            return (
                f"run {name} again with n_controls of {needed:,} or more, as a rank among K controls ends at "
                "1 / (K + 1), and cite that"
            )
        return (
            f"a rank among K controls ends at 1 / (K + 1), so that it would take {needed:,} of them, and {why}: take "
            f"another experiment than {name}"
        )

    def _most_controls(self, request: Any) -> tuple[float, str]:
        """How many controls can be had, and why not more."""
        name = request.experiment
        bounds = [(limit, f"{name} takes at most {limit:,}") for limit in _limits(request)]
        if _RANKED[name] == _COMPONENTS and self.sizes.components is not None:
            bounds.append((self.sizes.components - 1, f"there are only {self.sizes.components:,} components"))
        elif _RANKED[name] != _COMPONENTS and self.sizes.tokens is not None:
            bounds.append((self.sizes.tokens - 1, f"the vocabulary has only {self.sizes.tokens:,} tokens"))
        return min(bounds, default=(float("inf"), ""))


def _is_of(evidence_id: str, experiment: str | None) -> bool:
    return experiment is None or evidence_id.startswith(f"{experiment}-")


def _limits(request: Any) -> list[int]:
    """Upper bounds of the number of controls that may be asked for."""
    constraints = type(request).model_fields["n_controls"].metadata
    return [constraint.le for constraint in constraints if getattr(constraint, "le", None) is not None]


def _ends_at_a_rank(request: Any) -> bool:
    """Whether the p-value cannot fall below 1 / (controls + 1); that of several tokens as a set can."""
    match request.experiment:
        case "sweep":
            return len(request.tokens) == 1
        case "interact":
            return 1 in (len(request.first_tokens), len(request.second_tokens))
        case "position":
            return request.mode == "distance"
        case name:
            return name in _RANKED
