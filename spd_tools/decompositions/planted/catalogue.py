"""Which components the planted model has, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from spd_tools.decompositions.planted.conditions import Note
from spd_tools.decompositions.planted.drafts import FOUR, Draft, raises, same, token_draft
from spd_tools.decompositions.planted.first_block import attention, first_mlp
from spd_tools.decompositions.planted.second_block import second_mlp
from spd_tools.decompositions.planted.vocabulary import Cast

ATTENTION, FIRST_MLP, SECOND_MLP = "h.0.attn.o_proj", "h.0.mlp.down_proj", "h.1.mlp.down_proj"


def components(cast: Cast) -> tuple[dict[str, list[Draft]], dict[str, Note]]:
    """Layer -> its components, in the order in which the layers run; and the notes that they pass on."""
    first = {ATTENTION: attention(cast), FIRST_MLP: first_mlp(cast)}
    notes = _notes([draft for layer in first.values() for draft in layer])
    return first | {SECOND_MLP: second_mlp(cast, notes)}, notes


def _notes(drafts: Sequence[Draft]) -> dict[str, Note]:
    """The notes that drafts write, each with all of its sources."""
    names = dict.fromkeys(name for draft in drafts for name in draft.notes)
    return {
        name: Note(name, tuple((draft.condition, draft.notes[name]) for draft in drafts if name in draft.notes))
        for name in names
    }


def uncovered(cast: Cast) -> dict[str, Draft]:
    """Per layer what its weights do beside the components: the delta, a rank-one remainder with a rule of its own."""
    nouns, verbs = cast["noun5"], cast["intransitive"]
    return {
        ATTENTION: token_draft(
            cast, "uncovered-attention", {nouns[2]: 1.0, nouns[3]: 0.5}, raises(cast["adverb"], FOUR), distance=1
        ),
        FIRST_MLP: token_draft(cast, "uncovered-first", same(cast["noun4"][:3], 0.5), raises(verbs, FOUR)),
        SECOND_MLP: token_draft(cast, "uncovered-second", same(verbs[:4], 0.5), raises(cast["preposition"], FOUR)),
    }
