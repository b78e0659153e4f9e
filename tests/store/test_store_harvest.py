from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import MASS_UNIT
from reference_store import KINDS, LAYERS, Stored, random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import PAIR_METRICS

COMPONENTS = range(15)
DEAD, ALWAYS = "h.1.mlp.c_fc:4", "h.1.mlp.c_fc:3"


@pytest.fixture(scope="module")
def harvest(stored):
    return stored.harvest


def test_totals(harvest, stored):
    assert harvest.n_tokens == stored.counted.n_tokens
    assert harvest.firing_counts.tolist() == stored.counted.n
    assert (harvest.run_id, harvest.harvest_id, harvest.n_rows, harvest.seq_len) == ("made-up", "abc123", 20, 14)


def test_rows(harvest, stored):
    assert np.array_equal(harvest.tokens(), stored.given.tokens)
    assert harvest.row_lengths.tolist() == stored.given.lengths
    assert harvest.logged_rows.tolist() == stored.counted.logged_rows
    assert np.array_equal(harvest.excluded, stored.given.excluded)


def test_cooccurrence_of_all_pairs(harvest, stored):
    for i in COMPONENTS:
        for j in COMPONENTS:
            assert harvest.cooccurrence(harvest.keys.key(i), harvest.keys.key(j)) == stored.counted.n_ij(i, j)


@pytest.mark.parametrize("component", COMPONENTS)
def test_record(harvest, stored, component):
    record, counted = harvest.component(harvest.keys.key(component)), stored.counted
    n = counted.n[component]
    assert (record.index, record.firing_count, record.density) == (component, n, n / counted.n_tokens)
    assert record.dropped_output_mass == counted.dropped_units[component] / MASS_UNIT
    assert record.logged_firings == len(counted.log[component])
    for kind in KINDS:
        assert record.mean_activations[kind] == counted.sums[kind][component] / counted.n_tokens
        if n:
            assert record.mean_firing_activations[kind] == counted.firing_sums[kind][component] / n
            assert record.mean_abs_firing_activations[kind] == counted.abs_firing_sums[kind][component] / n


def test_a_component_that_never_fired_has_no_means_at_firings(harvest):
    record = harvest.component(DEAD)
    assert record.firing_count == 0
    assert record.mean_firing_activations is record.mean_abs_firing_activations is record.effective_max is None
    assert harvest.histogram(DEAD) == harvest.examples(DEAD) == harvest.correlated(DEAD) == []
    assert len(harvest.token_stats(DEAD)) == len(harvest.activations(DEAD)) == 0
    assert harvest.token_stats(DEAD).lists("pmi").top == []


def test_components_are_all_records_in_order(harvest):
    assert harvest.components() == [harvest.component(key) for key in harvest.keys]


@pytest.mark.parametrize("component", COMPONENTS)
def test_histogram_counts_every_firing_in_its_range(harvest, stored, component):
    values = [
        stored.given.activations[KINDS[1]][row, position, component]
        for row, position in stored.given.positions()
        if stored.given.fires(row, position, component)
    ]
    bins = harvest.histogram(harvest.keys.key(component))
    assert [bin_.low for bin_ in bins] == sorted(bin_.low for bin_ in bins)
    for bin_ in bins:
        negative = bin_.low < 0
        inside = [abs(v) for v in values if np.signbit(v) == negative]
        low, high = sorted((abs(bin_.low), abs(bin_.high)))
        assert sum(low <= v < high for v in inside) == bin_.count
    assert sum(bin_.count for bin_ in bins) == len(values)


@pytest.mark.parametrize("component", COMPONENTS)
def test_token_stats(harvest, stored, component):
    key, counted = harvest.keys.key(component), stored.counted
    inputs, outputs = harvest.token_stats(key, "input"), harvest.token_stats(key, "output")
    assert dict(zip(inputs.token.tolist(), inputs.count.tolist(), strict=True)) == counted.input_counts[component]
    assert inputs.total.tolist() == [counted.vocabulary_input[v] for v in inputs.token.tolist()]
    masses = {v: q / MASS_UNIT for v, q in counted.output_units[component].items()}
    assert dict(zip(outputs.token.tolist(), outputs.count.tolist(), strict=True)) == masses
    assert outputs.total.tolist() == [counted.vocabulary_output_units[v] / MASS_UNIT for v in outputs.token.tolist()]
    assert (inputs.dropped_mass, outputs.dropped_mass) == (None, counted.dropped_units[component] / MASS_UNIT)


def test_token_column(harvest, stored):
    for v in range(stored.given.vocab_size):
        assert harvest.token_column(v).tolist() == [of_c.get(v, 0) for of_c in stored.counted.input_counts]
        masses = [of_c.get(v, 0) / MASS_UNIT for of_c in stored.counted.output_units]
        assert harvest.token_column(v, "output").tolist() == masses


@pytest.mark.parametrize("component", COMPONENTS)
def test_activations(harvest, stored, component):
    found = harvest.activations(harvest.keys.key(component))
    assert list(zip(found.row, found.position, strict=True)) == stored.counted.log[component]
    for kind in KINDS:
        expected = [stored.given.activations[kind][row, p, component] for row, p in stored.counted.log[component]]
        assert found.values[kind].tolist() == expected


def test_activations_are_views_of_the_file(harvest):
    once, again = harvest.activations(ALWAYS), harvest.activations(ALWAYS)
    assert np.shares_memory(once.token, again.token)
    assert np.shares_memory(once.values[KINDS[1]], again.values[KINDS[1]])
    assert not once.token.flags.writeable


@pytest.mark.parametrize("kind", ["uniform", "top"])
@pytest.mark.parametrize("context", [0, 1, 2, 5, 10**12])
def test_examples(harvest, stored, kind, context):
    for component in COMPONENTS:
        examples = harvest.examples(harvest.keys.key(component), kind, 99, context)
        expected = getattr(stored.counted, kind)[component]
        assert [(example.row, example.position) for example in examples] == [(e.row, e.position) for e in expected]
        for example in examples:
            check_window(stored, component, example, context)


def check_window(stored: Stored, component: int, example, context: int):
    given, row = stored.given, example.row
    positions = [p for p in range(given.lengths[row]) if abs(p - example.position) <= context]
    assert example.start == positions[0]
    assert example.start + example.firing_index == example.position
    assert example.token_ids == given.tokens[row, positions].tolist()
    assert example.token_texts == [f"w{token_id}" for token_id in example.token_ids]
    assert example.row_id == 1000 + len(given.tokens) - 1 - row
    for kind in KINDS:
        for p, value in zip(positions, example.activations[kind], strict=True):
            near = abs(p - example.position) <= given.window
            known = near or (row in stored.counted.logged_rows and given.fires(row, p, component))
            expected = given.activations[kind][row, p, component] if known and given.counts(row, p) else None
            assert value == expected


def test_the_limit_of_examples_is_a_prefix(harvest):
    assert harvest.examples(ALWAYS, "uniform", 3) == harvest.examples(ALWAYS, "uniform", 7)[:3]


@pytest.mark.parametrize("metric", PAIR_METRICS)
@pytest.mark.parametrize("weakest", [False, True])
def test_correlated_counts_are_exact(harvest, metric, weakest):
    for i in harvest.keys:
        for found in harvest.correlated(i, metric, 99, weakest):
            assert found.count == harvest.cooccurrence(i, found.key)
            assert found.score == getattr(found, metric)
            assert found.key != i


def test_weakest_pairs_include_those_that_never_fired_together(tmp_path):
    """Two components that exclude each other, by a made-up input where they alternate."""
    given = random_input(1, rows=10, seq=12, excluded=False)
    gate = given.activations[KINDS[0]]
    gate[..., 0], gate[..., 1] = np.arange(12) % 2, 1 - np.arange(12) % 2
    write_reference_store(tmp_path / "h", given)
    weakest = Harvest.open(tmp_path / "h").correlated("h.0.attn.q_proj:0", "pmi", 1, weakest=True)
    assert [(found.key.index, found.count, found.pmi) for found in weakest] == [(1, 0, -math.inf)]


def test_a_harvest_without_log_masks_or_tokenizer(tmp_path):
    given = random_input(2, rows=3, excluded=False, log_share=0.0)
    write_reference_store(tmp_path / "h", given)
    harvest = Harvest.open(tmp_path / "h")
    assert len(harvest.logged_rows) == len(harvest.activations(ALWAYS)) == 0
    assert (
        harvest.excluded
        is harvest.tokenizer
        is harvest.token_text(0)
        is harvest.component(ALWAYS).effective_max
        is None
    )
    assert set(harvest.examples(ALWAYS, limit=1)[0].token_texts) == {None}


def test_results_become_json(harvest):
    record = json.loads(harvest.component(ALWAYS).model_dump_json())
    assert record["key"] == ALWAYS
    example = json.loads(harvest.examples(ALWAYS, limit=1)[0].model_dump_json())
    assert example["token_texts"][example["firing_index"]].startswith("w")


def test_many_threads_read_the_same(stored):
    harvest = stored.harvest

    def look(key: ComponentKey):
        stats = harvest.token_stats(key, "output")
        examples = harvest.examples(key, "top")
        return harvest.component(key), examples, harvest.correlated(key), stats.lists("recall"), harvest.histogram(key)

    keys = list(harvest.keys) * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(look, keys)) == [look(key) for key in keys]


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda h: h.component("h.9.mlp:0"), "There is no layer 'h.9.mlp'; the layers are h.0.attn.q_proj, h.0.mlp"),
        (lambda h: h.component("h.0.mlp.c_fc:6"), "Layer h.0.mlp.c_fc has components 0 to 5"),
        (lambda h: h.component("c_fc"), "'c_fc' is no component"),
        (lambda h: h.token_column(11), "There is no token 11; the vocabulary has ids 0 to 10"),
        (lambda h: h.token_stats(DEAD, "both"), "'both' is no side; choose one of input, output"),
        (lambda h: h.examples(DEAD, "worst"), "'worst' is no kind of examples; choose one of uniform, top"),
        (lambda h: h.examples(DEAD, limit=-1), "The limit of a list is -1; give a number of at least 0"),
        (lambda h: h.examples(DEAD, context=-1), "The context is -1"),
        (lambda h: h.correlated(DEAD, "npmi"), "'npmi' is no metric of component pairs"),
        (lambda h: h.cooccurrence(DEAD, "h.0.mlp.c_fc:99"), "there is no component h.0.mlp.c_fc:99"),
    ],
)
def test_bad_questions_get_one_sentence(harvest, ask, sentence):
    with pytest.raises(SpdToolsError) as caught:
        ask(harvest)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_layers_are_those_of_the_decomposition(harvest):
    assert list(harvest.keys.layers.items()) == LAYERS
