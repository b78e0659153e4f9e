from __future__ import annotations

from typing import cast

import pytest
import torch

from spd_tools.analysis.similarity import similar_components
from spd_tools.decompositions.base import Decomposition
from spd_tools.errors import SpdToolsError


class Vectors:
    """The part of a decomposition that is needed: layers and vectors."""

    def __init__(self, read: dict[str, torch.Tensor], write: dict[str, torch.Tensor]) -> None:
        self.layers = {name: len(vectors) for name, vectors in read.items()}
        self.read_vectors, self.write_vectors = read.__getitem__, write.__getitem__


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    read = {"a": torch.randn(3, 4), "b": torch.randn(2, 4), "none": torch.randn(0, 4), "c": torch.randn(3, 5)}
    write = {"a": torch.randn(3, 6), "b": torch.randn(2, 5), "none": torch.randn(0, 5), "c": torch.randn(3, 5)}
    return cast(Decomposition, Vectors(read, write))


@pytest.mark.parametrize(
    ("key", "direction", "layers"), [("a:1", "read", "ab"), ("a:1", "write", "a"), ("b:0", "write", "bc")]
)
def test_cosines_over_layers_of_equal_width(vectors, key, direction, layers):
    of_layer = vectors.read_vectors if direction == "read" else vectors.write_vectors
    own = of_layer(key[0])[int(key[2])]
    expected = {
        f"{layer}:{index}": float(torch.nn.functional.cosine_similarity(other, own, dim=0))
        for layer in layers
        for index, other in enumerate(of_layer(layer))
        if f"{layer}:{index}" != key
    }
    found = similar_components(vectors, key, direction, limit=99)
    assert {str(similar.key): similar.cosine for similar in found} == pytest.approx(expected, abs=1e-6)
    strengths = [abs(similar.cosine) for similar in found]
    assert strengths == sorted(strengths, reverse=True)
    assert similar_components(vectors, key, direction, limit=1) == found[:1]


def test_an_opposite_vector_is_as_alike_as_an_equal_one(vectors):
    vectors.read_vectors("b")[1] = -3 * vectors.read_vectors("a")[0]
    best = similar_components(vectors, "a:0", limit=1)[0]
    assert (str(best.key), best.cosine) == ("b:1", pytest.approx(-1))


def test_zero_vectors_are_left_out(vectors):
    vectors.read_vectors("b")[0] = 0
    assert "b:0" not in {str(similar.key) for similar in similar_components(vectors, "a:0")}


def test_a_zero_vector_is_similar_to_nothing(vectors):
    vectors.read_vectors("b")[0] = 0
    with pytest.raises(SpdToolsError, match="The read vector of b:0 is zero"):
        similar_components(vectors, "b:0")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("d:0",), "There is no layer 'd'"),
        (("a:3",), "there is no component a:3"),
        (("a:0", "both"), "'both' is no direction; choose one of read, write"),
        (("a:0", "read", -1), "The limit of a list is -1"),
    ],
)
def test_bad_questions_get_one_sentence(vectors, arguments, sentence):
    with pytest.raises(SpdToolsError) as caught:
        similar_components(vectors, *arguments)
    assert sentence in str(caught.value)
