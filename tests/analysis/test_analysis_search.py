from __future__ import annotations

import itertools
import math

import pytest
from reference import MASS_UNIT
from reference_store import random_input, word_tokenizer, write_reference_store
from tokenizers import Tokenizer, models, pre_tokenizers

from spd_tools.analysis.search import resolve_token, search
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest


def listed(result):
    return [(hit.key.layer, hit.key.index) for hit in result.hits]


def test_without_conditions_all_components_in_order(stored):
    result = search(stored.harvest, limit=99)
    assert listed(result) == [tuple(key) for key in stored.harvest.keys]
    assert (result.n_components, result.order, result.token_id) == (15, "index", None)


def test_layer_pattern(stored):
    result = search(stored.harvest, layer="h.*.mlp.c_fc", limit=4)
    assert result.n_components == 11
    assert listed(result) == [("h.0.mlp.c_fc", index) for index in range(4)]


def test_density_range_includes_its_ends(stored):
    n_tokens = stored.counted.n_tokens
    low, high = sorted(n / n_tokens for n in stored.counted.n)[3], sorted(n / n_tokens for n in stored.counted.n)[8]
    result = search(stored.harvest, min_density=low, max_density=high, order="density", ascending=True, limit=99)
    found = [hit.firing_count for hit in result.hits]
    assert found == sorted(n for n in stored.counted.n if low <= n / n_tokens <= high)
    assert found[0] / n_tokens == low
    assert found[-1] / n_tokens == high


def test_dead_components_are_found(stored):
    assert listed(search(stored.harvest, max_density=0.0)) == [("h.1.mlp.c_fc", 4)]


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("order", ["recall", "precision", "lift", "pmi"])
@pytest.mark.parametrize("ascending", [False, True])
def test_by_token_equals_brute_force(stored, side, order, ascending):
    counted, n_tokens, token = stored.counted, stored.counted.n_tokens, 4
    table = counted.input_counts if side == "input" else counted.output_units
    totals = counted.vocabulary_input if side == "input" else counted.vocabulary_output_units
    unit = 1 if side == "input" else MASS_UNIT
    expected = {}
    for c, n in enumerate(counted.n):
        count, total = table[c].get(token, 0) / unit, totals[token] / unit
        if count >= 2:
            precision = count / total
            scores = {"recall": count / n, "precision": precision, "lift": precision * n_tokens / n}
            expected[c] = {**scores, "pmi": math.log(scores["lift"]), "count": count, "total": total}
    result = search(stored.harvest, token=token, side=side, order=order, ascending=ascending, min_count=2, limit=99)
    found = {stored.harvest.keys.flat(hit.key): hit.token for hit in result.hits}
    assert found.keys() == expected.keys()
    for c, score in found.items():
        assert score.model_dump(include=set(expected[c])) == pytest.approx(expected[c], abs=1e-12)
    values = [getattr(score, order) for score in found.values()]
    assert all(a <= b + 1e-12 if ascending else a >= b - 1e-12 for a, b in itertools.pairwise(values))


def test_limit_keeps_the_first(stored):
    all_hits = search(stored.harvest, token=4, limit=99).hits
    assert search(stored.harvest, token=4, limit=3).hits == all_hits[:3]


def test_components_that_never_met_the_token_are_no_hits(stored):
    result = search(stored.harvest, token=4, min_count=0, limit=99)
    assert result.n_components == sum(4 in of_c for of_c in stored.counted.input_counts)


def test_token_by_text(stored):
    assert search(stored.harvest, token="w4") == search(stored.harvest, token=4)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"token": "w1 w2"}, "'w1 w2' is not one token but 'w1', 'w2'; ask for one of its tokens"),
        ({"token": ""}, "'' is not one token but none at all"),
        ({"token": 11}, "There is no token 11; the vocabulary has ids 0 to 10"),
        ({"token": -1}, "There is no token -1"),
        ({"layer": "x*"}, "No layer is called 'x*'; the layers are h.0.attn.q_proj, h.0.mlp.c_fc, h.1.mlp.c_fc."),
        ({"layer": "h.0.mlp.cfc"}, "No layer is called 'h.0.mlp.cfc'; did you mean h.0.mlp.c_fc or h.1.mlp.c_fc?"),
        ({"order": "pmi"}, "can be ordered by pmi only when a token is asked for"),
        ({"order": "name"}, "'name' is no order of components"),
        ({"side": "up"}, "'up' is no side"),
        ({"min_density": 0.5, "max_density": 0.1}, "No density lies between 0.5 and 0.1"),
        ({"min_density": math.nan}, "No density lies between nan and 1.0"),
        ({"limit": -1}, "The limit of a list is -1"),
    ],
)
def test_bad_questions_get_one_sentence(stored, question, sentence):
    with pytest.raises(SpdToolsError) as caught:
        search(stored.harvest, **question)
    assert sentence in str(caught.value)


def test_text_needs_a_tokenizer(tmp_path):
    write_reference_store(tmp_path / "h", random_input(0))
    with pytest.raises(SpdToolsError, match="has no tokenizer to read 'w1' with; give a token id"):
        search(Harvest.open(tmp_path / "h"), token="w1")


def test_spelling_of_the_vocabulary_is_a_token_too(tmp_path):
    """ " a" is one token by its text, its piece "Ġa" is not, but names it all the same."""
    pieces = ["<unk>", "Ġa", "a", "Ġ", "Ä", "ł"]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    write_reference_store(tmp_path / "h", random_input(0), tokenizer_json=tokenizer.to_str())
    harvest = Harvest.open(tmp_path / "h")
    assert (resolve_token(harvest, " a"), resolve_token(harvest, "a"), resolve_token(harvest, "Ġa")) == (1, 2, 1)


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_a_word_that_the_vocabulary_lacks_is_not_its_unknown_token(tmp_path, unknown):
    model = models.WordLevel({"<unk>": 0, "cat": 1}, **({"unk_token": unknown} if unknown else {}))
    write_reference_store(tmp_path / "h", random_input(0), tokenizer_json=Tokenizer(model).to_str())
    harvest = Harvest.open(tmp_path / "h")
    assert resolve_token(harvest, "cat") == 1
    assert resolve_token(harvest, "<unk>") == 0
    with pytest.raises(SpdToolsError, match="'dog' is not in the vocabulary of this harvest's tokenizer"):
        resolve_token(harvest, "dog")


@pytest.mark.parametrize("typed", ["cat", "·cat"])
def test_a_word_that_is_a_token_with_the_space_before_it_is_proposed(tmp_path, typed):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, " cat": 1}, unk_token="<unk>"))
    write_reference_store(tmp_path / "h", random_input(0), tokenizer_json=tokenizer.to_str())
    with pytest.raises(SpdToolsError, match="did you mean ' cat', with the space"):
        resolve_token(Harvest.open(tmp_path / "h"), typed)


def test_a_text_of_which_the_tokenizer_drops_a_part_is_not_the_rest(tmp_path):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    write_reference_store(tmp_path / "h", random_input(0), tokenizer_json=tokenizer.to_str())
    with pytest.raises(SpdToolsError, match="'aé' is not in the vocabulary"):
        resolve_token(Harvest.open(tmp_path / "h"), "aé")


def test_spaces_around_a_word_do_not_matter_where_tokens_carry_none(stored):
    assert resolve_token(stored.harvest, " w4") == 4


def test_a_token_of_a_larger_tokenizer_is_outside_the_vocabulary(stored, tmp_path):
    write_reference_store(tmp_path / "h", random_input(0), tokenizer_json=word_tokenizer(50).to_str())
    with pytest.raises(SpdToolsError, match="There is no token 49"):
        search(Harvest.open(tmp_path / "h"), token="w49")
