"""P-values of an investigation as a whole, for a list of results."""

from __future__ import annotations

from collections.abc import Iterable

from spd_tools.annotations import Annotations, EvidenceSummary


def corrected_p_values(notes: Annotations, evidence: Iterable[EvidenceSummary]) -> dict[str, float]:
    """Id -> p-value corrected (Holm 1979) for all stored results about the same component, listed here or not.

    What a supported label has to reach, too (see ``annotations.multiplicity``). Results without a p-value are in no
    family and not in the answer.
    """
    wanted = list(evidence)
    found: dict[str, float] = {}
    for key in dict.fromkeys(result.key for result in wanted):
        found |= notes.corrected_p_values(key)
    return {result.id: found[result.id] for result in wanted if result.id in found}
