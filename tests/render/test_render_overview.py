"""The page says what the numbers say: sign, positions, silent tokens, strongest tokens."""

from __future__ import annotations

import io

import numpy as np
import pytest
from reference_store import KINDS, random_input, word_tokenizer, write_reference_store
from rich.console import Console

from spd_tools.analysis.overview import overview
from spd_tools.render.overview import overview_page
from spd_tools.store.harvest import Harvest

ALWAYS, DENSE = "h.1.mlp.c_fc:3", "h.0.mlp.c_fc:2"
WIDTHS = [60, 100, 120, 160, 220]


def page(folder, key=ALWAYS, width=200, change=None, **options):
    """Lines of the page of one component of a made-up harvest."""
    given = random_input(0, rows=20)
    if change is not None:
        given.activations[KINDS[1]] = change(given.activations[KINDS[1]]).astype(np.float32)
    write_reference_store(folder / "h", given, tokenizer_json=word_tokenizer(given.vocab_size).to_str())
    harvest = Harvest.open(folder / "h")
    found = overview(harvest, key, **options)
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, highlight=False)
    for part in overview_page(found, harvest.token_texts):
        console.print(part)
    return found, console.file.getvalue().splitlines()


def line_with(lines, words):
    """The only line that holds some words."""
    [line] = [line for line in lines if words in line]
    return line


def test_both_signs_have_their_own_tokens(tmp_path):
    found, lines = page(tmp_path)
    core = next(region for region in found.regions.regions if region.name == "core")
    cells = line_with(lines, " core        ").partition("core  ")[2].split()
    assert core.positive.firing_count > 0 < core.negative.firing_count
    assert {str(core.positive.firing_count), str(core.negative.firing_count)} <= set(cells)
    assert "negative" in line_with(lines, "above")


@pytest.mark.parametrize(("change", "share"), [(np.abs, None), (lambda a: -np.abs(a) - 0.1, "100 %")])
def test_one_sign_needs_no_split(tmp_path, change, share):
    _, lines = page(tmp_path, change=change)
    assert "negative" not in line_with(lines, "above")
    headline = line_with(lines, "fires on ")
    assert ("negative" in headline) == (share is not None)
    if share is not None:
        assert headline.endswith(f"{share} of its firings have a negative component_activation")


def test_the_headline_says_how_many_firings_are_negative(tmp_path):
    found, lines = page(tmp_path)
    share = 100 * found.negative_count / found.component.firing_count
    assert f"{share:.1f} % of its firings have a negative" in line_with(lines, "fires on ")


def test_density_by_position(tmp_path):
    found, lines = page(tmp_path, DENSE)
    line = line_with(lines, "Density by position").replace("\N{NO-BREAK SPACE}", " ")
    assert [part.partition(":")[0] for part in line.split("   ")][1:] == ["1", "2–3", "4–7", "8–11"]
    assert f"4–7: {100 * found.positions[3].density:.1f} %" in line


def test_a_dense_component_shows_where_it_is_silent_instead_of_flat_pmi(tmp_path):
    found, lines = page(tmp_path, DENSE)
    assert 0.5 <= found.component.density < 1
    assert any("Input tokens, most often without a firing" in line for line in lines)
    assert not any("Input tokens, largest PMI" in line for line in lines)


def test_a_component_that_is_never_silent_shows_its_pmi(tmp_path):
    found, lines = page(tmp_path)
    assert found.silent_tokens == []
    assert any("Input tokens, largest PMI" in line for line in lines)


def test_all_stored_top_examples_are_summed_up(tmp_path):
    found, lines = page(tmp_path)
    first = found.strongest_tokens.tokens[0]
    assert line_with(lines, "largest: ").startswith(f"All 5 largest: w{first.token_id} {first.count}")


def test_the_opposite_sign_has_examples_of_its_own(tmp_path):
    found, lines = page(tmp_path)
    [at] = [number for number, line in enumerate(lines) if line.startswith("The strongest of the opposite sign")]
    shown = [float(line.split()[0]) for line in lines[at + 2 : at + 2 + len(found.opposite_examples)]]
    assert len(shown) > 0
    assert len({value > 0 for value in shown}) == 1


def test_partners_show_their_tokens(tmp_path):
    found, lines = page(tmp_path)
    partner = found.cofiring.by_pmi[0]
    texts = "  ".join(f"w{token.token_id}" for token in partner.tokens)
    assert any(str(partner.key) in line and texts in line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("key", [ALWAYS, DENSE, "h.1.mlp.c_fc:4"])
def test_the_page_is_no_wider_than_the_terminal(tmp_path, width, key):
    _, lines = page(tmp_path, key, width)
    assert max(map(len, lines)) <= width


def test_empty_lists_are_no_error(tmp_path):
    _, lines = page(tmp_path, n_examples=0, n_tokens=0, n_components=0)
    assert line_with(lines, "fires on ")
