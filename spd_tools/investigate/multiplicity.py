"""P-values of an investigation as a whole: who tries many experiments on a component finds something by chance."""

from __future__ import annotations

from collections.abc import Iterable

from spd_tools.annotations import Annotations, EvidenceSummary


def corrected_p_values(notes: Annotations, evidence: Iterable[EvidenceSummary]) -> dict[str, float]:
    """Id -> p-value corrected (Holm 1979) for all stored results about the same component.

    Every result's own p-value is corrected for what was compared inside its experiment; the family here is everything
    that was ever asked about the component. Results without a p-value are in no family and not in the answer.
    """
    from spd_tools.experiments.statistics import holm

    wanted = list(evidence)
    found: dict[str, float] = {}
    for key in dict.fromkeys(result.key for result in wanted):
        family = {
            result.id: result.p_value for result in notes.list_evidence(key, limit=None) if result.p_value is not None
        }
        found |= dict(zip(family, holm(list(family.values())), strict=True))
    return {result.id: found[result.id] for result in wanted if result.id in found}
