from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from reference_store import KINDS, random_input, write_reference_store

from spd_tools.analysis.overview import overview
from spd_tools.analysis.positions import positions
from spd_tools.analysis.regions import regions
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest

KEY, DEAD = "h.0.mlp.c_fc:2", "h.1.mlp.c_fc:4"


def test_parts_are_those_of_the_harvest(stored):
    harvest = stored.harvest
    page = overview(harvest, KEY, n_examples=3, context=4, n_tokens=2, n_components=2)
    assert page.component == harvest.component(KEY)
    assert page.histogram == harvest.histogram(KEY)
    assert page.regions == regions(harvest, KEY, 2)
    assert page.input_tokens.by_recall == harvest.token_stats(KEY).lists("recall", 2)
    assert page.output_tokens.by_pmi == harvest.token_stats(KEY, "output").lists("pmi", 2)
    assert page.output_tokens.dropped_mass == page.component.dropped_output_mass
    assert page.positions == positions(harvest, KEY)
    partners = [partner.model_dump(exclude={"tokens"}) for partner in page.cofiring.by_jaccard]
    assert partners == [other.model_dump() for other in harvest.correlated(KEY, "jaccard", 2)]
    uniform = [example.model_dump(exclude={"region"}) for example in page.uniform_examples]
    assert uniform == [example.model_dump() for example in harvest.examples(KEY, "uniform", 3, 4)]
    top = [example.model_dump(exclude={"region"}) for example in page.top_examples]
    assert top == [example.model_dump() for example in harvest.examples(KEY, "top", 3, 4, max_per_token=2)]


def test_negative_firings_are_counted_over_the_whole_harvest(stored):
    given, counted = stored.given, stored.counted
    gating, ranking = (given.activations[kind][..., 6] for kind in (given.gating, given.ranking))
    places = [(row, p) for row in range(len(given.tokens)) for p in range(given.tokens.shape[1])]
    firing = [place for place in places if given.counts(*place) and gating[place] > given.threshold]
    assert len(firing) == counted.n[6]
    assert overview(stored.harvest, KEY).negative_count == sum(np.signbit(ranking[place]) for place in firing)


def test_opposite_examples_are_the_strongest_uniform_ones_of_the_other_sign(stored):
    harvest, met = stored.harvest, 0

    def activation(example):
        return example.activations[KINDS[1]][example.firing_index]

    for key in harvest.keys:
        page = overview(harvest, key, n_examples=3)
        if not page.top_examples:
            assert page.opposite_examples == []
            continue
        sign = activation(page.top_examples[0]) < 0
        others = [e for e in harvest.examples(key, "uniform", 99) if (activation(e) < 0) != sign]
        others.sort(key=lambda example: -abs(activation(example)))
        seen, expected = Counter(), []
        for example in others:
            token = example.token_ids[example.firing_index]
            seen[token] += 1
            if seen[token] <= 2:
                expected.append(example.position)
        assert [example.position for example in page.opposite_examples] == expected[:3]
        met += len(expected)
    assert met > 0


def test_a_component_of_one_sign_has_no_opposite_examples(tmp_path):
    given = random_input(0)
    given.activations[KINDS[1]] = np.abs(given.activations[KINDS[1]])
    write_reference_store(tmp_path / "h", given)
    assert overview(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3").opposite_examples == []


def test_the_strongest_tokens_are_those_of_all_stored_top_examples(stored):
    strongest = overview(stored.harvest, KEY, n_examples=1).strongest_tokens
    firing = [int(stored.given.tokens[example.row, example.position]) for example in stored.counted.top[6]]
    assert strongest.n_examples == len(firing)
    assert {token.token_id: token.count for token in strongest.tokens} == Counter(firing)


def test_a_dense_component_names_the_tokens_it_is_silent_on(stored):
    counted = stored.counted
    c = max((c for c in range(13)), key=lambda c: counted.n[c])
    assert counted.n[c] / counted.n_tokens >= 0.5
    found = overview(stored.harvest, stored.harvest.keys.key(c), n_tokens=99).silent_tokens
    silent = {v: counted.vocabulary_input[v] - counted.input_counts[c].get(v, 0) for v in counted.vocabulary_input}
    assert {token.token_id: token.count for token in found} == {v: n for v, n in silent.items() if n}
    assert [token.count for token in found] == sorted((token.count for token in found), reverse=True)
    assert all(token.total == counted.vocabulary_input[token.token_id] for token in found)
    assert all(token.share == token.count / token.total for token in found)


def test_a_rare_component_has_no_list_of_silent_tokens(stored):
    counted = stored.counted
    c = min((c for c in range(13)), key=lambda c: counted.n[c])
    assert counted.n[c] / counted.n_tokens < 0.5
    assert overview(stored.harvest, stored.harvest.keys.key(c)).silent_tokens is None


def test_partners_name_their_own_most_frequent_tokens(stored):
    for partner in overview(stored.harvest, KEY).cofiring.by_jaccard:
        counts = stored.counted.input_counts[stored.harvest.keys.flat(partner.key)]
        leading = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
        assert [(token.token_id, token.count) for token in partner.tokens] == leading


def test_totals_of_the_token_sides(stored):
    page = overview(stored.harvest, KEY)
    n = stored.counted.n[6]
    assert page.input_tokens.total == n
    assert page.input_tokens.n_tokens == len(stored.counted.input_counts[6])
    assert page.output_tokens.total + page.output_tokens.dropped_mass == pytest.approx(n, abs=n * 1e-6)


def test_examples_name_their_region(stored):
    page = overview(stored.harvest, KEY)
    bounds = {region.name: region for region in page.regions.regions}
    for example in page.uniform_examples + page.top_examples:
        value = abs(example.activations[KINDS[1]][example.firing_index])
        region = bounds[example.region]
        assert region.low < value or region.name == "floor"
        assert region.high is None or value <= region.high


def test_strongest_and_weakest_partners_never_overlap(stored):
    for key in stored.harvest.keys:
        cofiring = overview(stored.harvest, key, n_components=6).cofiring
        assert not {c.key for c in cofiring.by_pmi} & {c.key for c in cofiring.weakest_by_pmi}


def test_partners_are_counted(stored):
    partners = sum(stored.counted.n_ij(6, j) > 0 for j in range(15) if j != 6)
    assert overview(stored.harvest, KEY).cofiring.n_partners == partners


def test_summary_names_count_and_share(stored):
    n, n_tokens = stored.counted.n[6], stored.counted.n_tokens
    assert (
        overview(stored.harvest, KEY).summary
        == f"{KEY} fired on {n} of {n_tokens} tokens ({100 * n / n_tokens:.3g} %)."
    )


def test_a_component_that_never_fired_says_so(stored):
    page = overview(stored.harvest, DEAD)
    assert page.summary == f"{DEAD} never fired on the {stored.counted.n_tokens} tokens of this harvest."
    assert page.regions is page.positions is page.silent_tokens is None
    assert page.component.mean_firing_activations is None
    assert page.top_examples == page.histogram == page.cofiring.weakest_by_pmi == page.input_tokens.by_pmi.top == []


def test_examples_without_a_log_have_no_region(tmp_path):
    write_reference_store(tmp_path / "h", random_input(0, log_share=0.0))
    page = overview(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3")
    assert page.regions is None
    assert {example.region for example in page.top_examples} == {None}


def test_json_is_strict(stored):
    for key in stored.harvest.keys:
        page = overview(stored.harvest, key)
        document = page.model_dump(mode="json")
        assert document["component"]["key"] == str(key)
        assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(page.model_dump_json())


def test_unknown_component(stored):
    with pytest.raises(SpdToolsError, match="has components 0 to 5; there is no component h"):
        overview(stored.harvest, "h.0.mlp.c_fc:77")
