"""Rule 1: labelling and scoring are held apart by content."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from evaluation_harvests import CONTEXT, MadeUp, write_made_up

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.trials import SCORES, make_trials
from spd_tools.evaluate.windows import text_hashes

EVERYTHING = 10**6


def test_half_of_the_rows_are_for_labelling(planted):
    labelling = planted.split.labelling_rows(np.arange(planted.split.harvest.n_rows))
    assert 0.45 < labelling.mean() < 0.55


def test_the_side_is_a_hash_of_the_tokens_without_padding(made_up: MadeUp):
    split, given = made_up.split, made_up.given
    for row in range(len(given.tokens)):
        content = given.tokens[row, : given.lengths[row]].astype("<i4").tobytes()
        side = hashlib.sha256(b"spd-tools labelling and scoring 1\0" + content).digest()[0] & 1
        assert split.scoring(row) == bool(side)
        assert split.labelling(row) != bool(side)


def test_equal_windows_have_equal_hashes_and_others_others(made_up: MadeUp):
    places = [(row, at) for row in range(len(made_up.given.tokens)) for at in range(made_up.given.lengths[row])]
    rows, positions = np.array(places).T
    hashes = text_hashes(made_up.harvest, rows, positions, CONTEXT).tolist()
    texts = [made_up.text(row, at) for row, at in places]
    assert max(Counter(texts).values()) > 3
    assert len(set(zip(texts, hashes, strict=True))) == len(set(texts)) == len(set(hashes))


def test_a_cut_window_is_the_same_text_wherever_its_marked_token_stands(made_up: MadeUp):
    # Around the last token of a row of n and around the token CONTEXT before the end of a shorter one stand other
    # tokens; the same ones count as the same text, whichever of them is marked.
    row = int(np.argmin(made_up.given.lengths))
    length = made_up.given.lengths[row]
    at = np.array([0, length - 1])
    wide = text_hashes(made_up.harvest, np.array([row, row]), at, length)
    assert wide[0] == wide[1]


def slow_scoring_firings(made_up: MadeUp, component: int) -> list[int]:
    """Firings in logged scoring rows whose window stands neither in a logged labelling row nor in a stored example."""
    split, given, counted = made_up.split, made_up.given, made_up.counted
    labelling = {
        made_up.text(row, at) for row in counted.logged_rows if split.labelling(row) for at in range(given.lengths[row])
    }
    for example in counted.uniform[component] + counted.top[component]:
        if split.labelling(example.row):
            labelling.add(made_up.text(example.row, example.position))
    seq = given.tokens.shape[1]
    return [
        row * seq + at
        for row, at in counted.log[component]
        if split.scoring(row) and made_up.text(row, at) not in labelling
    ]


@pytest.fixture(scope="module")
def barely_logged(tmp_path_factory) -> MadeUp:
    """Most stored examples stand in rows without a log."""
    return write_made_up(tmp_path_factory.mktemp("barely") / "harvest" / "made-up" / "abc123", log_share=0.15)


@pytest.mark.parametrize("component", range(15))
@pytest.mark.parametrize("which", ["made_up", "barely_logged"])
def test_scoring_firings_are_the_obvious_ones(request, which, component):
    made_up: MadeUp = request.getfixturevalue(which)
    key = made_up.harvest.keys.key(component)
    assert made_up.split.scoring_firings(key).tolist() == slow_scoring_firings(made_up, component)


def test_some_firings_are_not_scored_because_their_text_is_an_example_in_a_labelling_row_without_a_log(barely_logged):
    split = barely_logged.split
    dropped = 0
    for component in range(13):
        key = barely_logged.harvest.keys.key(component)
        firings = barely_logged.harvest.activations(key).token
        hidden = split.hidden_texts(key)
        dropped += int(split.usable(firings, hidden[:0]).sum() - split.usable(firings, hidden).sum())
    assert dropped > 0


@pytest.mark.parametrize("component", [4, 7, 9, 10])
def test_an_oracle_that_was_shown_every_labelling_window_meets_none_of_them(made_up: MadeUp, component):
    split, key = made_up.split, made_up.harvest.keys.key(component)
    windows = [w for kind in ("uniform", "top") for w in split.labelling_examples(key, EVERYTHING, kind)]
    shown = {tuple(window.token_ids) for window in windows}
    scoring = [row for row in made_up.counted.logged_rows if split.scoring(row)]
    texts = {made_up.text(row, at) for row in scoring for at in range(made_up.given.lengths[row])}
    assert shown & texts, "the rows are such that a split by rows alone would fail"
    made = [trial for score in SCORES for trial in make_trials(split, key, score, 30).trials]
    assert len(made) > 30
    assert not [w for trial in made for w in trial.windows if tuple(w.token_ids) in shown]


@pytest.mark.parametrize("kind", ["uniform", "top"])
@pytest.mark.parametrize("component", [2, 9, 12])
def test_labelling_examples_are_distinct_windows_of_labelling_rows_in_the_stored_order(made_up, kind, component):
    split, key = made_up.split, made_up.harvest.keys.key(component)
    stored = {"uniform": made_up.counted.uniform, "top": made_up.counted.top}[kind][component]
    places, texts = [], set()
    for example in stored:
        text = made_up.text(example.row, example.position)
        if split.labelling(example.row) and text not in texts:
            places.append((example.row, example.position))
            texts.add(text)
    windows = split.labelling_examples(key, EVERYTHING, kind)
    assert [(window.row, window.position) for window in windows[: len(places)]] == places
    assert all(split.labelling(window.row) for window in windows)
    assert len({tuple(window.token_ids) for window in windows}) == len(windows) >= len(places)
    assert split.labelling_examples(key, 4, kind) == windows[:4]


def test_labelling_examples_beyond_the_stored_ones_come_from_the_log(made_up: MadeUp):
    split, key = made_up.split, made_up.harvest.keys.key(10)
    windows = split.labelling_examples(key, EVERYTHING)
    firings = {(row, at) for row, at in made_up.counted.log[10] if split.labelling(row)}
    assert {made_up.text(row, at) for row, at in firings} <= {tuple(window.token_ids) for window in windows}


def test_top_examples_from_the_log_descend(made_up: MadeUp):
    split, key = made_up.split, made_up.harvest.keys.key(10)
    ranking = made_up.given.activations[made_up.given.ranking][..., 10]
    windows = split.labelling_examples(key, EVERYTHING, "top")
    n_stored = len([example for example in made_up.counted.top[10] if split.labelling(example.row)])
    magnitudes = [abs(float(ranking[window.row, window.position])) for window in windows[n_stored:]]
    assert len(magnitudes) > 20
    assert magnitudes == sorted(magnitudes, reverse=True)


@pytest.mark.parametrize("component", [3, 11])
def test_windows_say_where_the_component_fires_and_where_that_is_not_known(made_up: MadeUp, component):
    split, given = Split(made_up.harvest, 8), made_up.given  # wider than what is stored with an example
    logged = set(made_up.counted.logged_rows)
    windows = split.labelling_examples(made_up.harvest.keys.key(component), EVERYTHING)
    assert {window.row in logged for window in windows} == {True, False}
    for window in windows:
        assert window.fires[window.marked] is True
        for place, fires in enumerate(window.fires):
            at = window.start + place
            known = given.counts(window.row, at) and (window.row in logged or abs(at - window.position) <= given.window)
            assert fires is (given.fires(window.row, at, component) if known else None)
            if fires:
                assert window.activations[place] == float(given.activations[given.ranking][window.row, at, component])


def test_the_split_does_not_depend_on_what_is_logged(made_up: MadeUp, tmp_path):
    other = write_made_up(tmp_path / "store", log_share=0.1)
    rows = np.arange(len(made_up.given.tokens))
    assert (other.split.labelling_rows(rows) == made_up.split.labelling_rows(rows)).all()


def test_a_context_of_nothing_is_refused(made_up: MadeUp):
    with pytest.raises(SpdToolsError, match="at least 1"):
        Split(made_up.harvest, 0)
