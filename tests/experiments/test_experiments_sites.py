"""Positions that experiments start from, and rows with tokens exchanged."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import key_of, token_of
from reference_store import random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject
from spd_tools.experiments.sites import sites
from spd_tools.experiments.substitution import CorpusTokens, exchanged, lead_lengths, measure
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

KEY = ComponentKey("h.0.mlp.c_fc", 2)
ALL = 10**6


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Rows of unequal lengths with excluded positions; (subject, what was counted)."""
    given = random_input(3, rows=20)
    folder = tmp_path_factory.mktemp("made-up") / "harvest"
    write_reference_store(folder, given)
    return Subject(Harvest.open(folder)), given


def pairs(found):
    return list(zip(found.row.tolist(), found.position.tolist(), strict=True))


def expected(subject, given, base):
    flat = subject.harvest.keys.flat(KEY)
    fires = {(r, p) for r, p in given.positions() if given.fires(r, p, flat)}
    return {"random": set(given.positions()), "firing": fires, "silent": set(given.positions()) - fires}[base]


@pytest.mark.parametrize("base", ["random", "firing", "silent"])
def test_all_positions_of_a_kind_can_be_drawn_and_no_others(made_up, base):
    subject, given = made_up
    found = pairs(sites(subject, KEY, base, ALL, np.random.default_rng(0)))
    assert found == sorted(expected(subject, given, base))


def test_a_sample_is_without_replacement_ascending_and_uniform(made_up):
    subject, given = made_up
    seen = dict.fromkeys(given.positions(), 0)
    for seed in range(300):
        found = pairs(sites(subject, KEY, "random", 30, np.random.default_rng(seed)))
        assert len(found) == 30
        assert found == sorted(set(found))
        for pair in found:
            seen[pair] += 1
    counts = np.array(list(seen.values()))
    mean = 300 * 30 / len(seen)
    assert ((counts - mean) ** 2).sum() / mean < 1.5 * len(seen)


def test_positions_of_some_tokens(made_up):
    subject, given = made_up
    for token, tokens in ((4, {4}), ([4, 7], {4, 7})):
        found = pairs(sites(subject, KEY, "firing", ALL, np.random.default_rng(0), token=token))
        assert found == sorted(p for p in expected(subject, given, "firing") if given.tokens[p] in tokens)


def test_what_stands_before_must_be_counted(made_up):
    subject, given = made_up
    found = pairs(sites(subject, KEY, "random", ALL, np.random.default_rng(0), first=3))
    assert found == sorted((r, p) for r, p in given.positions() if p >= 3 and given.counts(r, p - 3))


def test_no_position_is_an_error_that_says_what_was_looked_for(made_up):
    subject, _ = made_up
    with pytest.raises(SpdToolsError, match=r"no firing of h.1.mlp.c_fc:4 on the token '<3>' or '<5>' with 2 tokens"):
        sites(subject, ComponentKey("h.1.mlp.c_fc", 4), "firing", 5, np.random.default_rng(0), token=[3, 5], first=2)


def test_firings_come_from_the_examples_where_none_are_logged(tmp_path):
    given = random_input(3, rows=20, log_share=0.0)
    write_reference_store(tmp_path / "harvest", given)
    subject = Subject(Harvest.open(tmp_path / "harvest"))
    found = pairs(sites(subject, KEY, "firing", ALL, np.random.default_rng(0)))
    assert len(found) == 7
    assert set(found) <= expected(subject, given, "firing")
    assert pairs(sites(subject, KEY, "random", ALL, np.random.default_rng(0))) == sorted(given.positions())
    with pytest.raises(SpdToolsError, match="without a firing"):
        sites(subject, KEY, "silent", 5, np.random.default_rng(0))


def test_contexts_are_copies_of_whole_rows(made_up):
    subject, given = made_up
    found = sites(subject, KEY, "random", 5, np.random.default_rng(0))
    contexts = found.contexts(subject.harvest)
    np.testing.assert_array_equal(contexts, given.tokens[found.row])
    contexts[:] = 0
    np.testing.assert_array_equal(subject.harvest.tokens(), given.tokens)


def test_excluded_positions_at_the_beginning_of_rows_are_counted(made_up):
    subject, given = made_up
    lead = lead_lengths(subject.harvest, np.arange(20))
    assert lead.max() >= 1
    for row, n in enumerate(lead):
        assert given.excluded[row, :n].all()
        assert not given.excluded[row, n]


def test_other_tokens_follow_the_corpus_without_the_one_that_stood_there(made_up):
    subject, _ = made_up
    counts = np.asarray(subject.harvest.vocabulary("input"))
    corpus = CorpusTokens(subject.harvest)
    for token in range(len(counts)):
        drawn = corpus.other_than(np.full(5000, token), np.random.default_rng(token))
        shares = np.where(np.arange(len(counts)) == token, 0, counts)
        np.testing.assert_allclose(np.bincount(drawn, minlength=len(counts)) / 5000, shares / shares.sum(), atol=0.03)
        assert (drawn != token).all()
    drawn = corpus.draw((100, 50), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 5000, counts / counts.sum(), atol=0.03)


def test_a_corpus_of_one_token_has_no_other(tmp_path):
    given = random_input(0, rows=4)
    given.tokens[:] = 3
    write_reference_store(tmp_path / "harvest", given)
    with pytest.raises(SpdToolsError, match="single token"):
        CorpusTokens(Harvest.open(tmp_path / "harvest")).other_than(np.array([3]), np.random.default_rng(0))


def test_measuring_equals_a_run_of_whole_rows(subject):
    key = ComponentKey.parse(key_of(subject, "negated-verb"))
    tokens = subject.harvest.tokens()[:300].astype(np.int64)
    position = np.random.default_rng(0).integers(0, 64, 300)
    whole = subject.traces(tokens, [key])
    for response in ("ranking", "gating", "firing"):
        found = measure(subject, key, response, position, lambda numbers: tokens[numbers])
        np.testing.assert_array_equal(found.response, whole.response(response)[np.arange(300), position, 0])
        np.testing.assert_array_equal(found.fires, whole.fires[np.arange(300), position, 0])
    assert found.fires.any()


def test_nothing_to_measure_needs_no_model(made_up):
    subject, _ = made_up
    found = measure(subject, KEY, "ranking", np.zeros(0, np.int64), lambda numbers: numbers)
    assert found.response.shape == found.fires.shape == (0,)


def test_one_token_of_a_context_is_exchanged(subject):
    contexts = np.zeros((2, 5), np.int64)
    word = token_of(subject, "the")
    rows = exchanged(contexts, np.array([1, 0]), np.array([4, 2]), np.array([word, 7]))
    assert rows(np.array([0, 1])).tolist() == [[0, 0, 0, 0, word], [0, 0, 7, 0, 0]]
    assert not contexts.any()
