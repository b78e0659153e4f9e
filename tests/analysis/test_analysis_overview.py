from __future__ import annotations

import json

import pytest
from reference_store import KINDS, random_input, write_reference_store

from spd_tools.analysis.overview import overview
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
    assert page.cofiring.by_jaccard == harvest.correlated(KEY, "jaccard", 2)
    for shown, kind in ((page.uniform_examples, "uniform"), (page.top_examples, "top")):
        plain = [example.model_dump(exclude={"region"}) for example in shown]
        assert plain == [example.model_dump() for example in harvest.examples(KEY, kind, 3, 4)]


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
    assert page.regions is None
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
