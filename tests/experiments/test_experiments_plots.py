"""Plots are PNG files, equal for equal input, and no token text disturbs them."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_subjects import key_of, planted

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import make_request, plots, run
from spd_tools.experiments.interact import InteractResult
from spd_tools.experiments.position import PositionResult
from spd_tools.experiments.sweep import SweepResult

HOSTILE = [
    "$x_{$",
    "$$",
    r"\frac{1}{0}$",
    "\x1b[31mred",
    "\u202ertl",
    "日本語",
    "\U0001f600",
    "\n",
    "",
    "a" * 1_000_000,
    None,
]


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", png[16:24])


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def interaction(subject) -> InteractResult:
    rule = planted(subject).rule("number-noun")
    parameters = {"key": rule.key, "first_tokens": list(rule.tokens[:4]), "second_tokens": list(rule.tokens[4:8])}
    found = run(subject, make_request("interact", {**parameters, "n_contexts": 2, "n_controls": 19}))
    assert isinstance(found, InteractResult)
    return found


@pytest.fixture(scope="module")
def swept(subject) -> SweepResult:
    found = run(
        subject,
        make_request(
            "sweep", {"key": key_of(subject, "city-0"), "tokens": list(planted(subject).words[5:9]), "n_contexts": 4}
        ),
    )
    assert isinstance(found, SweepResult)
    return found


def test_a_histogram_is_a_png_and_the_same_every_time(subject):
    key = key_of(subject, "weekday")
    first = plots.activation_histogram(subject.harvest, key)
    assert min(size(first)) > 200
    assert plots.activation_histogram(subject.harvest, key) == first
    assert b"Software" not in first
    assert b"Creation" not in first


@pytest.mark.parametrize("name", ["weekday", "tail-marker", "always"])
def test_histogram_bars_hold_every_firing(subject, name):
    key = key_of(subject, name)
    edges, counts = plots._bars(subject.harvest.histogram(key))
    assert counts.sum() == pytest.approx(subject.harvest.component(key).firing_count)
    assert np.all(np.diff(edges) > 0)
    assert edges[0] <= 0 <= edges[-1]
    negative = counts[:-1][edges[1:-1] <= 0].sum()
    assert (negative > 0) == (name == "weekday")


def test_regions_are_drawn(subject):
    png = plots.region_table(subject.harvest, key_of(subject, "tail-marker"))
    assert size(png)[0] > size(png)[1]
    assert plots.region_table(subject.harvest, key_of(subject, "tail-marker")) == png


def test_what_never_fired_is_not_drawn(subject):
    key = key_of(subject, "dead-impossible")
    with pytest.raises(SpdToolsError, match="never fired"):
        plots.activation_histogram(subject.harvest, key)
    with pytest.raises(SpdToolsError, match="no firing in the log"):
        plots.region_table(subject.harvest, key)


def test_a_heatmap_grows_with_its_tokens(interaction):
    png = plots.interaction_heatmap(interaction)
    assert plots.interaction_heatmap(interaction) == png
    fewer = interaction.model_copy(
        update={"heatmap": [row[:2] for row in interaction.heatmap[:1]], "pairs": interaction.pairs[:2]}
    )
    assert all(np.array(size(plots.interaction_heatmap(fewer))) < size(png))


def test_heatmap_of_nothing_but_zeros(interaction):
    flat = interaction.model_copy(update={"heatmap": [[0.0] * len(row) for row in interaction.heatmap]})
    size(plots.interaction_heatmap(flat))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_tokens_are_drawn_as_text(interaction, swept, text):
    pairs = [
        pair.model_copy(update={"first": pair.first.model_copy(update={"text": text})}) for pair in interaction.pairs
    ]
    size(plots.interaction_heatmap(interaction.model_copy(update={"pairs": pairs})))
    tokens = [token.model_copy(update={"text": text}) for token in swept.tokens]
    size(plots.sweep_bars(swept.model_copy(update={"tokens": tokens})))


def test_mathematics_is_not_read(interaction):
    def with_text(text: str) -> bytes:
        first = interaction.pairs[0].first.model_copy(update={"text": text})
        pairs = [interaction.pairs[0].model_copy(update={"first": first}), *interaction.pairs[1:]]
        return plots.interaction_heatmap(interaction.model_copy(update={"pairs": pairs}))

    assert with_text("$x$") != with_text("x")


@given(st.text(max_size=40))
def test_shown_tokens_are_short_and_can_be_drawn(text):
    drawn = plots.shown(text, 7)
    assert 0 < len(drawn) <= 24
    assert set(map(ord, drawn)) <= plots._glyphs()
    assert drawn.isprintable()


def test_a_token_without_text_shows_its_id():
    assert plots.shown(None, 7) == "<7>"


def test_a_sweep_is_drawn(swept):
    assert plots.sweep_bars(swept) == plots.sweep_bars(swept)
    size(plots.sweep_bars(swept))


def test_a_position_curve_is_drawn_with_and_without_controls(subject):
    key = key_of(subject, "late-position")
    moved = run(subject, make_request("position", {"key": key, "n_positions": 3, "n_contexts": 4, "n_draws": 1}))
    assert isinstance(moved, PositionResult)
    size(plots.position_curve(moved))
    cue = {"mode": "distance", "cue": "the", "max_distance": 2, "n_contexts": 4, "n_draws": 1}
    cued = run(subject, make_request("position", {"key": key_of(subject, "after-the"), **cue}))
    assert isinstance(cued, PositionResult)
    assert plots.position_curve(cued) != plots.position_curve(moved)
