import pytest

from spd_tools.interpret.places import place_of

LAYERS = dict.fromkeys(["wte", "h.0.attn.q_proj", "h.0.mlp.c_proj", "h.3.attn.c_proj", "h.3.mlp.fancy"], 2)


def test_a_layer_is_counted_among_the_decomposed_ones():
    place = place_of("h.3.attn.c_proj", LAYERS)
    assert (place.number, place.n_layers, place.block, place.n_blocks) == (4, 5, 3, 2)


def test_a_layer_outside_of_blocks_has_no_block():
    assert place_of("wte", LAYERS).block is None


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("h.0.attn.q_proj", "query"),
        ("model.layers.3.self_attn.o_proj", "output projection of attention"),
        ("h.0.attn.c_proj", "output projection of attention"),
        ("h.0.mlp.c_proj", "output matrix of an MLP"),
        ("h.0.mlp.down_proj", "output matrix of an MLP"),
        ("wte", "token embedding"),
        ("h.0.mlp.c_fc.pre_identity", "identity map in front of the input matrix"),
    ],
)
def test_the_name_says_what_kind_of_layer_it_is(layer, said):
    assert said in str(place_of(layer, {layer: 1}).role)


@pytest.mark.parametrize("layer", ["h.3.mlp.fancy", "linear1", "c_proj"])
def test_what_the_name_does_not_say_is_not_guessed(layer):
    assert place_of(layer, {layer: 1}).role is None
