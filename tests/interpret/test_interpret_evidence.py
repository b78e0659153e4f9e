from collections import Counter

import numpy as np
import pytest
from interpreting import TOOLS

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.windows import text_hashes
from spd_tools.interpret.evidence import N_TOP, N_UNIFORM, gather

ALWAYS = "h.0.mlp.down_proj:17"


def windows(evidence):
    return [*evidence.uniform, *evidence.top]


def test_texts_come_from_labelling_rows_only(split):
    for key in split.harvest.keys:
        assert all(split.labelling(window.row) for window in windows(gather(split, key)))


def test_no_text_that_is_scored_is_shown(split):
    """Of any component: what one was labelled on may not score another."""
    scored = set()
    for key in list(split.harvest.keys)[::5]:
        hidden = split.scoring_firings(key)
        scored |= set(split.texts_at(hidden).tolist())
    shown = [window for key in split.harvest.keys for window in windows(gather(split, key))]
    rows, positions = ([getattr(window, name) for window in shown] for name in ("row", "position"))
    hashes = text_hashes(split.harvest, np.array(rows), np.array(positions), split.context)
    assert scored
    assert not scored & set(hashes.tolist())


def test_every_window_is_about_a_firing(split):
    for window in windows(gather(split, TOOLS)):
        assert window.fires[window.marked]
        assert window.activations[window.marked] is not None


def test_no_text_is_shown_twice(split):
    texts = Counter(tuple(window.token_ids) for window in windows(gather(split, TOOLS)))
    assert set(texts.values()) == {1}


def test_the_strongest_examples_are_of_many_tokens(split):
    evidence = gather(split, TOOLS)
    tokens = Counter(window.token_ids[window.marked] for window in evidence.top)
    assert max(tokens.values()) <= 2
    strengths = [abs(window.activations[window.marked] or 0) for window in evidence.top]
    assert strengths == sorted(strengths, reverse=True)
    assert (len(evidence.uniform), len(evidence.top) <= N_TOP) == (N_UNIFORM, True)


def test_token_counts_cover_all_rows(split):
    harvest = split.harvest
    frequent = gather(split, TOOLS).inputs.frequent
    tokens, counts = harvest.token_counts(TOOLS)
    best = sorted(zip(-counts, tokens, strict=True))[: len(frequent)]
    assert [(-score.count, score.token_id) for score in frequent] == [(int(n), int(v)) for n, v in best]


def test_typical_tokens_are_not_said_twice(split):
    for key in split.harvest.keys:
        evidence = gather(split, key)
        for side in (evidence.inputs, evidence.outputs):
            assert not {s.token_id for s in side.frequent} & {s.token_id for s in side.typical}


def test_only_dense_components_show_where_they_are_silent(split):
    harvest = split.harvest
    for key in harvest.keys:
        evidence = gather(split, key)
        assert bool(evidence.silent) <= (evidence.component.density >= 0.5)
        for silent in evidence.silent:
            token = silent.token.token_id
            fired = dict(zip(*(array.tolist() for array in harvest.token_counts(key)), strict=True)).get(token, 0)
            assert silent.total - fired == silent.token.count > 0


def test_partners_come_with_their_tokens_and_labels(split):
    evidence = gather(split, TOOLS, lambda key: f"label of {key}" if key.index == 17 else None)
    labels = {str(partner.pair.key): partner.label for partner in evidence.partners}
    assert labels[ALWAYS] == f"label of {ALWAYS}"
    assert set(labels.values()) == {None, labels[ALWAYS]}
    for partner in evidence.partners:
        assert partner.pair.count == split.harvest.cooccurrence(TOOLS, partner.pair.key) > 0
        assert partner.tokens


def test_a_dead_component_has_nothing_to_show(split):
    dead = next(key for key in split.harvest.keys if not split.harvest.firing_counts[split.harvest.keys.flat(key)])
    evidence = gather(split, dead)
    assert not evidence.has_examples
    assert not evidence.partners


def test_an_unknown_component_is_refused(split):
    with pytest.raises(SpdToolsError, match="no layer"):
        gather(split, "h.9.mlp:0")
