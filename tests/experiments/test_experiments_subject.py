"""Texts, rows and activations of what is experimented on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_subjects import key_of, planted, token_of

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, run
from spd_tools.experiments.intervention import Intervention, kl_nats, logit_pair, measure
from spd_tools.experiments.sites import sites
from spd_tools.experiments.subject import BATCH_TOKENS, by_length


def test_traces_are_the_activations_of_a_call(subject):
    tokens = subject.harvest.tokens()[:40].astype(np.int64)
    keys = [key_of(subject, name) for name in ("negated-verb", "mood", "weekday")]
    traces = subject.traces(tokens, keys)
    out = subject.decomposition(torch.from_numpy(tokens))
    for place, key in enumerate(keys):
        layer, _, index = key.rpartition(":")
        for kind, values in (("causal_importance", traces.gating), ("component_activation", traces.ranking)):
            np.testing.assert_array_equal(values[..., place], out.activations[kind][layer][..., int(index)].numpy())
    np.testing.assert_array_equal(traces.fires, traces.gating > 0)
    np.testing.assert_array_equal(traces.response("firing"), traces.fires.astype(np.float32))


def test_traces_follow_the_rule(subject):
    tokens = subject.harvest.tokens()[:20].astype(np.int64)
    rule = planted(subject).rule("gate-determiner")
    found = subject.traces(tokens, [rule.key]).ranking[..., 0]
    assert found.tolist() == [[rule.activation(row, at) for at in range(64)] for row in tokens.tolist()]


def test_batches_hold_a_fixed_number_of_tokens_at_most(subject):
    assert subject.batches((300, 64)) == [slice(0, 128), slice(128, 256), slice(256, 384)]
    assert subject.batches((2, BATCH_TOKENS + 1)) == [slice(0, 1), slice(1, 2)]
    assert subject.batches((0, 64)) == []


def test_texts_are_cut_as_the_harvest_was(subject):
    words = ["the", "rain", ",", "costa", "rica"]
    assert subject.tokens_of("the rain, costa rica") == [token_of(subject, word) for word in words]


@pytest.mark.parametrize(
    ("text", "marked"),
    [("the «rain» falls", [1]), ("«the rain» falls", [0, 1]), ("the rain «fa»lls", [2]), ("the rain falls", [])],
)
def test_marks_enclose_tokens_and_are_none_themselves(subject, text, marked):
    found = subject.marked_tokens_of(text)
    assert found.tokens == subject.tokens_of("the rain falls")
    assert found.marked == marked


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no tokens"),
        ("the " * 65, "has 65 tokens and the model takes 64"),
        ("the «rain falls", "needs one «"),
        ("the rain» «falls", "needs one «"),
        ("«the» «rain»", "needs one «"),
        ("the «» rain", "needs one «"),
        ("the « » rain", "enclose no token"),
    ],
)
def test_texts_that_cannot_be_used_are_refused_in_a_sentence(subject, text, says):
    with pytest.raises(SpdToolsError, match=says):
        subject.marked_tokens_of(text)


def test_marks_are_letters_where_none_are_meant(subject):
    assert len(subject.tokens_of("« the")) == 2


def test_tokens_have_ids_and_texts(subject):
    the = token_of(subject, "the")
    assert subject.token_of("the") == subject.token_of(the) == the
    assert subject.shown(the) == "'the'"
    with pytest.raises(SpdToolsError, match="no token 100000"):
        subject.token_of(100_000)


def test_rows_end_where_their_padding_begins(tmp_path):
    from reference_store import random_input, write_reference_store

    from spd_tools.store.harvest import Harvest

    given = random_input(0)
    write_reference_store(tmp_path / "harvest", given)
    subject = Subject(Harvest.open(tmp_path / "harvest"))
    for row, length in enumerate(given.lengths):
        assert subject.row(row).tolist() == given.tokens[row, :length].tolist()
    for row in (-1, 8):
        with pytest.raises(SpdToolsError, match=f"no row {row} in harvest abc123; it has 0 to 7"):
            subject.row(row)
    with pytest.raises(SpdToolsError, match="no tokenizer"):
        subject.tokens_of("the")
    with pytest.raises(SpdToolsError, match="needs the weights"):
        _ = subject.decomposition


def test_a_request_and_a_subject_decide_the_id(subjects):
    def identity(subject, **parameters):
        key = key_of(subjects[0], "because")
        return subject.identity(make_request("probe", {"key": key, "texts": ["the"], **parameters}))["id"]

    assert identity(subjects[0]) == identity(subjects[0])
    assert identity(subjects[0]).startswith("probe-")
    others = [identity(subjects[0], seed=1), identity(subjects[0], texts=["a"]), identity(subjects[1])]
    assert len({identity(subjects[0]), *others}) == 4


@pytest.fixture(scope="module")
def in_bf16(dense_with) -> Subject:
    return dense_with(precision="bf16")


def test_a_probe_of_a_bf16_harvest_shows_what_was_logged(in_bf16):
    harvest = in_bf16.harvest
    counts = harvest.firing_counts
    key = str(harvest.keys.key(int(np.argmin(np.abs(counts - harvest.n_tokens / 2)))))  # fires here and there
    log = harvest.activations(key)
    probed = run(in_bf16, make_request("probe", {"key": key, "texts": [f"row:{row}" for row in range(4)]}))
    for row, text in enumerate(probed.texts):
        mine = log.token // harvest.seq_len == row
        assert text.firing_positions == (log.token[mine] % harvest.seq_len).tolist()
        logged = log.values[harvest.ranking_kind][mine]
        np.testing.assert_allclose(np.array(text.ranking)[text.firing_positions], logged, atol=1e-5)


def test_a_bf16_harvest_is_experimented_on_in_bf16(in_bf16, dense):
    """Firings and activations are those that were logged; those of float32, of another harvest, are others."""
    harvest = in_bf16.harvest
    keys = [str(record.key) for record in harvest.components()]
    tokens = harvest.tokens().astype(np.int64)
    np.testing.assert_array_equal(tokens, dense.harvest.tokens())
    differ = 0
    for subject, close in ((in_bf16, True), (dense, False)):
        traces = subject.traces(tokens, keys)
        for at, key in enumerate(keys):
            log, fires = harvest.activations(key), traces.fires[..., at].reshape(-1)
            logged, traced = log.values[harvest.ranking_kind], traces.ranking[..., at].reshape(-1)[log.token]
            if close:
                np.testing.assert_array_equal(np.flatnonzero(fires), log.token)
                np.testing.assert_allclose(traced, logged, atol=1e-5)
            else:
                differ += np.count_nonzero(np.abs(traced - logged) > 1e-3)
    assert differ > 1000


def test_an_intervention_runs_at_the_precision_of_the_harvest(in_bf16):
    key = next(record.key for record in in_bf16.harvest.components() if record.firing_count > 20)
    places = sites(in_bf16, key, "firing", 4, np.random.default_rng(0))
    # In one batch of rows that end at the last site, as sums of other shapes round differently.
    tokens = torch.from_numpy(places.contexts(in_bf16.harvest)[:, : places.position.max() + 1])
    order = np.argsort(places.position, kind="stable")
    at, position = torch.arange(4), torch.from_numpy(places.position[order])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pair = logit_pair(
            in_bf16.decomposition, tokens[order], key.layer, torch.full((4,), key.index), position, Intervention()
        )
    unchanged, changed = (logits[at, position] for logits in pair)
    assert unchanged.dtype == torch.bfloat16
    found = measure(in_bf16, key, places, Intervention(), np.arange(8))
    np.testing.assert_allclose(found.before[order], unchanged.double().softmax(-1)[:, :8], rtol=1e-6)
    np.testing.assert_allclose(found.kl[order], kl_nats(unchanged, changed), rtol=1e-6)


def test_the_precision_is_part_of_where_a_result_was_computed(in_bf16, dense):
    request = make_request("probe", {"key": str(dense.harvest.keys.key(0)), "texts": ["row:0"]})
    half, full = (subject.identity(request) for subject in (in_bf16, dense))
    assert half["machine"].device == f"{full['machine'].device}, bf16"
    assert half["id"] != full["id"]
    assert half["subject"].fingerprint == full["subject"].fingerprint


def test_what_one_part_draws_does_not_shift_another(subject):
    request = make_request("probe", {"key": key_of(subject, "because"), "texts": ["the"]})
    one, again, other = (subject.rng(request, purpose).random(3).tolist() for purpose in ("a", "a", "b"))
    assert one == again != other


def test_rows_of_one_length_go_together():
    groups = by_length([[1, 2], [3], [4, 5]])
    assert [(numbers, rows.tolist()) for numbers, rows in groups] == [([1], [[3]]), ([0, 2], [[1, 2], [4, 5]])]
