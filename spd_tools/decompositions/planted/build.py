"""A seed's drafts become rules with keys, and rules become weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spd_tools.decompositions.planted import catalogue
from spd_tools.decompositions.planted.conditions import Condition, Echo, Inhibited, Note, Noted, Scramble
from spd_tools.decompositions.planted.drafts import Draft, label
from spd_tools.decompositions.planted.grammar import bigram_logits
from spd_tools.decompositions.planted.model import Layer, PlantedModel
from spd_tools.decompositions.planted.rules import LOGITS_PER_WRITE, Rule
from spd_tools.decompositions.planted.vocabulary import MAX_SEQ_LEN, Cast, digest
from spd_tools.decompositions.planted.wiring import WINDOW, Neuron, Stream, wires


@dataclass(frozen=True)
class Planted:
    """Everything that follows from a seed."""

    cast: Cast
    rules: dict[str, Rule]
    """Key -> rule, in flat-index order."""
    uncovered: dict[str, Rule]
    """Layer -> rule of what its components leave out (the delta)."""
    model: PlantedModel


def build(seed: int) -> Planted:
    """Words, rules and weights of one seed."""
    cast = Cast(seed)
    drafts, notes = catalogue.components(cast)
    # Where a component stands in its layer says nothing about what it does.
    drafts = {name: sorted(layer, key=lambda draft: digest(seed, name, draft.name)) for name, layer in drafts.items()}
    keys = {f"{layer}:{at}": draft for layer, members in drafts.items() for at, draft in enumerate(members)}
    writers = {note: tuple(key for key, draft in keys.items() if note in draft.notes) for note in notes}
    rules = {key: _rule(cast, key, draft, writers) for key, draft in keys.items()}
    remainders = catalogue.uncovered(cast)
    stream = Stream(
        len(cast.words),
        tuple(rule.condition for rule in rules.values() if isinstance(rule.condition, Scramble)),
        tuple(sorted(notes)),
    )
    layers = {name: _layer(cast, stream, drafts[name], remainders[name]) for name in drafts}
    model = PlantedModel(*_embeddings(stream), layers, _unembedding(cast, stream))
    return Planted(cast, rules, {name: _rule(cast, name, draft, {}) for name, draft in remainders.items()}, model)


def _rule(cast: Cast, key: str, draft: Draft, writers: Mapping[str, tuple[str, ...]]) -> Rule:
    read = _read_note(draft.condition)
    return Rule(
        key=key,
        name=draft.name,
        kind=draft.kind,
        description=label(cast, draft),
        tokens=draft.tokens,
        condition=draft.condition,
        effects={word: share * LOGITS_PER_WRITE for word, share in draft.writes.items()},
        notes=dict(draft.notes),
        reads=writers[read.name] if read else (),
    )


def _read_note(condition: Condition) -> Note | None:
    return condition.note if isinstance(condition, (Echo, Noted, Inhibited)) else None


def _layer(cast: Cast, stream: Stream, drafts: Sequence[Draft], remainder: Draft) -> Layer:
    """Neurons that are alike are one: a duplicate pair reads the same."""
    neurons: list[Neuron] = []

    def place(neuron: Neuron) -> int:
        if neuron not in neurons:
            neurons.append(neuron)
        return neurons.index(neuron)

    reads = [{place(neuron): share for neuron, share in wires(d.condition, stream)} for d in (*drafts, remainder)]
    w_in = torch.zeros(WINDOW, stream.output, len(neurons))
    for at, neuron in enumerate(neurons):
        for (distance, dimension), weight in neuron.weights.items():
            w_in[distance, dimension, at] = weight
    read = torch.zeros(len(reads), len(neurons))
    for component, shares in enumerate(reads):
        for at, share in shares.items():
            read[component, at] = share
    write = torch.stack([_write_vector(cast, stream, draft) for draft in (*drafts, remainder)])
    return Layer(
        w_in,
        torch.tensor([neuron.bias for neuron in neurons]),
        torch.tensor([neuron.wraps for neuron in neurons]),
        read[:-1],
        write[:-1],
        read[-1:].T @ write[-1:],
    )


def _write_vector(cast: Cast, stream: Stream, draft: Draft) -> Tensor:
    vector = torch.zeros(stream.width)
    for word, share in draft.writes.items():
        vector[stream.output + cast.token(word)] = share
    for note, share in draft.notes.items():
        vector[stream.note(note)] = share
    return vector


def _embeddings(stream: Stream) -> tuple[Tensor, Tensor]:
    tokens = torch.eye(stream.vocab_size, stream.width)
    positions = torch.zeros(MAX_SEQ_LEN, stream.width)
    positions[:, stream.position] = torch.arange(MAX_SEQ_LEN) / 8
    positions[0, stream.first] = 1.0
    for scramble in stream.scrambles:
        positions[:, stream.hash(scramble)] = torch.tensor(scramble.positions) / 32
    return tokens, positions


def _unembedding(cast: Cast, stream: Stream) -> Tensor:
    """[d_model, vocab]: bigram logits of the token, and each word to come."""
    matrix = torch.zeros(stream.width, stream.vocab_size)
    matrix[: stream.vocab_size] = torch.from_numpy(bigram_logits(cast))
    matrix[stream.output :] = LOGITS_PER_WRITE * torch.eye(stream.vocab_size)
    return matrix
