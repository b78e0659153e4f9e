"""The planted model behind the protocol: effects, interventions, exactness."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from spd_tools.decompositions.planted import PlantedDecomposition, load_planted
from spd_tools.errors import SpdToolsError

GATING, RANKING = "causal_importance", "component_activation"
LAST = "h.1.mlp.down_proj"


@pytest.fixture(scope="module")
def planted() -> PlantedDecomposition:
    return load_planted(0)


@pytest.fixture(scope="module")
def tokens(planted) -> Tensor:
    return torch.from_numpy(planted.corpus(48))


@pytest.fixture(scope="module")
def target(planted, tokens):
    return planted(tokens)


def split(key: str) -> tuple[str, int]:
    layer, _, index = key.rpartition(":")
    return layer, int(index)


def ones(planted, tokens) -> dict[str, Tensor]:
    return {layer: torch.ones(*tokens.shape, count) for layer, count in planted.layers.items()}


def without(planted, tokens, *keys: str) -> dict[str, Tensor]:
    """Masks that remove components; only their layers are named."""
    masks: dict[str, Tensor] = {}
    for layer, index in map(split, keys):
        masks.setdefault(layer, torch.ones(*tokens.shape, planted.layers[layer]))[..., index] = 0
    return masks


def effect(planted, rule) -> Tensor:
    """[vocab]: the rule's logits per unit of activation."""
    vector = torch.zeros(planted.vocab_size)
    for word, logits in rule.effects.items():
        vector[planted.words.index(word)] = logits
    return vector


def activation(output, key: str, kind: str = RANKING) -> Tensor:
    layer, index = split(key)
    return output.activations[kind][layer][..., index]


def test_write_vectors_through_the_unembedding_are_the_effects(planted):
    effects = torch.stack([effect(planted, rule) for rule in planted.rules.values()])
    written = torch.cat([planted.write_vectors(layer) @ planted.unembedding for layer in planted.layers])
    assert torch.equal(written, effects)


def test_write_vectors_have_norm_one(planted):
    for layer in planted.layers:
        norms = planted.write_vectors(layer).square().sum(-1)
        assert torch.equal(norms, torch.ones_like(norms))


def test_ablating_a_component_takes_exactly_its_effect(planted, tokens, target):
    for key, rule in planted.rules.items():
        if rule.notes:
            continue
        ablated = planted.run(tokens, masks=without(planted, tokens, key))
        expected = activation(target, key)[..., None] * effect(planted, rule)
        assert torch.equal(target.logits - ablated.logits, expected), rule.name


def test_silencing_the_negation_reporter_reaches_its_readers(planted, tokens, target):
    reporter = planted.rule("recent-negation")
    verb, act = planted.rule("negated-verb"), planted.rule("plain-act")
    assert verb.reads == act.reads == (reporter.key,)
    ablated = planted.run(tokens, masks=without(planted, tokens, reporter.key))
    assert (activation(target, verb.key) > 0).any()
    assert not activation(ablated, verb.key).any()
    is_act = torch.isin(tokens, torch.tensor([planted.words.index(word) for word in act.tokens[:10]]))
    assert (activation(target, act.key)[is_act] == 0).any()
    assert torch.equal(activation(ablated, act.key, GATING) > 0, is_act)
    direct = activation(target, reporter.key)[..., None] * effect(planted, reporter)
    through = sum(
        (activation(target, rule.key) - activation(ablated, rule.key))[..., None] * effect(planted, rule)
        for rule in (verb, act)
    )
    assert torch.equal(target.logits - ablated.logits, direct + through)


def test_one_duplicate_stands_in_for_the_other(planted, tokens, target):
    pair = [planted.rule(f"duplicate-{letter}").key for letter in "ab"]
    reader = planted.rule("after-duplicates")
    assert sorted(reader.reads) == sorted(pair)
    before = activation(target, reader.key)
    assert (before > 0).any()
    one = activation(planted.run(tokens, masks=without(planted, tokens, pair[0])), reader.key)
    both = activation(planted.run(tokens, masks=without(planted, tokens, *pair)), reader.key)
    assert torch.equal(one, before / 2)
    assert not both.any()


def test_all_components_with_the_delta_are_the_target(planted, tokens, target):
    assert torch.equal(planted.run(tokens, masks=ones(planted, tokens)).logits, target.logits)


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_the_delta_is_the_uncovered_rule(planted, tokens, target, delta):
    lost = torch.zeros_like(target.logits)
    for rule in planted.uncovered.values():
        values = [[rule.activation(row, t) for t in range(len(row))] for row in tokens.tolist()]
        assert any(any(row) for row in values)
        lost += (1 - delta) * torch.tensor(values)[..., None] * effect(planted, rule)
    part = planted.run(tokens, masks=ones(planted, tokens), delta=delta)
    assert torch.equal(target.logits - part.logits, lost)


def test_unnamed_layers_keep_their_delta(planted, tokens, target):
    assert torch.equal(planted.run(tokens, delta=0.0).logits, target.logits)


def test_clamping_a_component_sets_its_activation(planted, tokens, target):
    rule = planted.rule("because")
    before = activation(target, rule.key)
    for value in (2.5, torch.linspace(-1, 1, 33)[:32].repeat(48, 2)):
        clamped = planted.run(tokens, clamp={rule.key: value})
        assert torch.equal(activation(clamped, rule.key), torch.as_tensor(value).expand_as(before))
        expected = (activation(clamped, rule.key) - before)[..., None] * effect(planted, rule)
        torch.testing.assert_close(clamped.logits - target.logits, expected, atol=1e-5, rtol=0)


def test_a_clamp_beats_the_mask_of_its_layer(planted, tokens):
    rule = planted.rule("because")
    clamped = planted.run(tokens, masks=without(planted, tokens, rule.key), clamp={rule.key: 1.0})
    assert (activation(clamped, rule.key) == 1).all()


def test_clamping_a_reporter_moves_its_reader(planted, tokens):
    clamped = planted.run(tokens, clamp={planted.rule("recent-negation").key: 1.0})
    assert not activation(clamped, planted.rule("plain-act").key).any()


def test_logits_follow_masks_smoothly_through_layers(planted, tokens):
    reporter = planted.rule("recent-negation")
    layer, index = split(reporter.key)
    word = planted.words.index(next(iter(planted.rule("negated-verb").effects)))

    def total(share: float) -> tuple[Tensor, Tensor]:
        mask = torch.ones(*tokens.shape, planted.layers[layer])
        mask[..., index] = share
        mask.requires_grad_()
        return planted.run(tokens, masks={layer: mask}).logits[..., word].double().sum(), mask

    value, mask = total(0.75)
    value.backward()
    assert mask.grad is not None
    slope = (total(0.8125)[0] - total(0.6875)[0]) / 0.125
    assert slope.item() > 0
    assert mask.grad[..., index].double().sum().item() == pytest.approx(slope.item())


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_do_not_change_a_bit(planted, tokens, target, batch_size):
    parts = [planted(part) for part in tokens.split(batch_size)]
    assert torch.equal(torch.cat([part.logits for part in parts]), target.logits)
    for kind in planted.kinds:
        for layer in planted.layers:
            assert torch.equal(
                torch.cat([part.activations[kind][layer] for part in parts]), target.activations[kind][layer]
            )


def test_a_shorter_row_has_the_same_activations(planted, tokens, target):
    short = planted(tokens[:, :10])
    assert torch.equal(short.logits, target.logits[:, :10])


def test_probabilities_are_spread_out(planted, tokens, target):
    probabilities = target.logits.softmax(-1)
    kept = probabilities * (probabilities >= 1e-3)
    assert 0.9 < kept.sum(-1).mean() < 0.999
    assert (kept > 0).sum(-1).float().mean() > 20


def test_the_model_predicts_its_corpus_as_well_as_it_says(planted, target, tokens):
    logs = target.logits[:, :-1].double().log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    surprise = -logs.gather(-1, tokens[:, 1:, None])[..., 0]
    assert surprise.mean().item() == pytest.approx(entropy.mean().item(), abs=0.1)


def test_vector_shapes(planted):
    d_model, vocab = planted.unembedding.shape
    assert vocab == planted.vocab_size == len(planted.words) == planted.tokenizer.get_vocab_size()
    for layer, count in planted.layers.items():
        assert planted.read_vectors(layer).shape[0] == count
        assert planted.write_vectors(layer).shape == (count, d_model)


def test_corpus_rows_depend_on_their_number_only(planted):
    rows = planted.corpus(1100, 12)
    assert rows.shape == (1100, 12)
    np.testing.assert_array_equal(planted.corpus(7, 12), rows[:7])
    np.testing.assert_array_equal(planted.corpus(7, 64)[:, :12], rows[:7])
    assert len(np.unique(rows, axis=0)) > 1090


def test_the_corpus_is_the_same_everywhere(planted):
    """Pinned: benchmarks and stored harvests count on it. A new value needs a reason."""
    assert hashlib.sha256(planted.corpus(20).astype("<i8").tobytes()).hexdigest()[:16] == "54177d01eb7666dc"
    assert planted.fingerprint[:16] == "791797072835b282"


def test_text_survives_the_tokenizer(planted, tokens):
    row = tokens[0].tolist()
    text = planted.tokenizer.decode(row)
    assert planted.tokenizer.encode(text).ids == row
    assert planted.tokenizer.encode("The dog, Xylophones.").tokens == ["the", "dog", ",", "<unk>", "."]


def test_no_word_of_the_corpus_is_unknown(planted):
    assert planted.corpus(300).min() > 0


def test_seeds_give_other_words_other_roles(planted):
    other = load_planted(1)
    assert other.fingerprint != planted.fingerprint
    assert sorted(other.words) == sorted(planted.words)
    assert {rule.name for rule in other.rules.values()} == {rule.name for rule in planted.rules.values()}
    moved = [
        name
        for name in ("tail-marker", "gate-colour", "strong-token", "city-0")
        if planted.rule(name).tokens != other.rule(name).tokens
    ]
    assert len(moved) >= 3
    assert [rule.name for rule in other.rules.values()] != [rule.name for rule in planted.rules.values()]
    assert not np.array_equal(other.corpus(5), planted.corpus(5))


def test_a_seed_gives_the_same_decomposition_again(planted):
    again = load_planted(0)
    assert again.fingerprint == planted.fingerprint
    assert again.rules == planted.rules


def test_names_and_defaults(planted):
    assert (planted.run_id, planted.reference) == ("planted", "planted")
    assert load_planted(4).reference == "planted:4"
    assert planted.kinds == (GATING, RANKING)
    assert planted.training_data is not None
    assert planted.training_data.dataset == "planted:0"
    assert planted.to("cpu") is planted
    assert planted.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d, x: d.run(x, masks={"h.9.mlp": torch.ones(1)}), "no layer 'h.9.mlp'"),
        (lambda d, x: d.run(x, masks={LAST: torch.ones(2, 2)}), "mask of layer h.1.mlp.down_proj has the shape"),
        (lambda d, x: d.run(x, clamp={f"{LAST}:900": 1.0}), "there is no component h.1.mlp.down_proj:900"),
        (lambda d, x: d.run(x, clamp={f"{LAST}:0": torch.ones(3)}), "clamp of h.1.mlp.down_proj:0 has the shape"),
        (lambda d, x: d(x[0]), "do not fit planted"),
        (lambda d, x: d(torch.zeros(1, 65, dtype=torch.int64)), "seq up to 64"),
        (lambda d, x: d(x.float()), "whole numbers"),
        (lambda d, x: d(x + 1000), "vocabulary has the ids"),
        (lambda d, x: d(x - 1000), "vocabulary has the ids"),
        (lambda d, x: d.read_vectors("wte"), "no layer 'wte'"),
        (lambda d, x: d.write_vectors("wte"), "no layer 'wte'"),
        (lambda d, x: d.rule("nothing"), "no planted rule 'nothing'"),
        (lambda d, x: d.corpus(3, 65), "1 to 64 tokens"),
        (lambda d, x: d.corpus(-1), "0 rows or more"),
        (lambda d, x: load_planted(-1), "-1 is no seed"),
    ],
)
def test_bad_input_is_one_sentence(planted, tokens, call, sentence):
    with pytest.raises(SpdToolsError, match=sentence) as caught:
        call(planted, tokens)
    assert str(caught.value).endswith(".")
