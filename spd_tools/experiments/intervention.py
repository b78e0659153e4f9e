"""One component removed, kept alone or set to a value: what that does to the next-token logits at some positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.decompositions.base import Decomposition
from spd_tools.experiments.sites import Sites
from spd_tools.experiments.subject import Subject
from spd_tools.keys import ComponentKey

Mode = Literal["remove", "alone", "clamp"]
"""Everything of the layer but the component; the component and nothing else of its layer; its activation set."""
Where = Literal["everywhere", "site"]
"""At every position of the row, or only where the change is read off."""

KL_FLOOR = 1e-9
"""Nats; smaller KLs are what float32 logits that should be equal differ by."""
# Constants, as sums of other shapes round differently.
_BATCH_TOKENS = 4096  # smaller than elsewhere: rows end at the last site of their batch
_NUMBERS_AT_ONCE = 1 << 26  # logits and activations of one run
_KL_NUMBERS = 1 << 22  # logits that are in float64 at once


@dataclass(frozen=True)
class Intervention:
    """What is done to a component."""

    mode: Mode = "remove"
    where: Where = "everywhere"
    value: float | None = None
    """Of a clamp, in units of the ranking activation as reported."""


@dataclass(frozen=True)
class Changes:
    """What an intervention did at n sites."""

    kl: NDArray[np.float64]
    """[n] KL(unchanged || changed) in nats, of the next-token distribution at the site."""
    later_kl: NDArray[np.float64] | None
    """[n] the same summed over the counted positions after the site; None where not asked for."""
    logits: NDArray[np.float32]
    """[n, columns] logits that the component brings (see ``brought``)."""
    before: NDArray[np.float32]
    """[n, columns] probability in the unchanged run."""
    after: NDArray[np.float32]
    """[n, columns] probability in the changed run."""
    mean_logits: NDArray[np.float64]
    """[vocab] mean over the sites of the logits that the component brings."""

    def followed_by(self, other: Changes) -> Changes:
        """The sites of both, in columns that both have (the first ones)."""
        width = min(self.logits.shape[1], other.logits.shape[1])
        later = None
        if self.later_kl is not None and other.later_kl is not None:
            later = np.concatenate([self.later_kl, other.later_kl])
        return Changes(
            kl=np.concatenate([self.kl, other.kl]),
            later_kl=later,
            logits=np.concatenate([self.logits[:, :width], other.logits[:, :width]]),
            before=np.concatenate([self.before[:, :width], other.before[:, :width]]),
            after=np.concatenate([self.after[:, :width], other.after[:, :width]]),
            mean_logits=np.average([self.mean_logits, other.mean_logits], 0, [len(self.kl), len(other.kl)]),
        )


def measure(
    subject: Subject,
    key: ComponentKey,
    places: Sites,
    intervention: Intervention,
    columns: NDArray[np.int64],
    *,
    later: bool = False,
) -> Changes:
    """Run the rows of some sites unchanged and changed, and compare what comes next.

    "remove" and "clamp" compare with the same layer put together from all its components and the weights that no
    component covers, so that the component is all that differs; "alone" compares the layer with this component only
    with the layer without any (its bias stays, the uncovered weights go too).

    Targets are causal language models: unless later positions are asked for, rows are cut off behind their site, and
    rows of like length share a batch.

    Args:
        subject: whose model runs.
        key: the component.
        places: at least one.
        intervention: what is done.
        columns: tokens whose logits are kept site by site; of the others only the mean is.
        later: whether to follow the rows to their ends.
    """
    return _measure_layer(subject, key.layer, [(key.index, places)], intervention, columns, later)[0]


def measure_each(
    subject: Subject,
    arms: Sequence[tuple[ComponentKey, Sites]],
    intervention: Intervention,
    columns: NDArray[np.int64],
) -> list[Changes]:
    """``measure`` of some components, each at sites of its own; components of one layer share batches."""
    found: dict[int, Changes] = {}
    for layer in dict.fromkeys(key.layer for key, _ in arms):
        numbers = [number for number, (key, _) in enumerate(arms) if key.layer == layer]
        members = [(arms[number][0].index, arms[number][1]) for number in numbers]
        changes = _measure_layer(subject, layer, members, intervention, columns, later=False)
        found |= dict(zip(numbers, changes, strict=True))
    return [found[number] for number in range(len(arms))]


@torch.no_grad()
def _measure_layer(
    subject: Subject,
    layer: str,
    arms: Sequence[tuple[int, Sites]],
    intervention: Intervention,
    columns: NDArray[np.int64],
    later: bool,
) -> list[Changes]:
    """Components of one layer by index, each at its sites."""
    decomposition, sizes = subject.decomposition, [len(places) for _, places in arms]
    assert all(sizes)
    arm = np.repeat(np.arange(len(arms)), sizes)
    index = np.array([index for index, _ in arms], np.int64)[arm]
    places = Sites(*(np.concatenate([getattr(at, name) for _, at in arms]) for name in ("row", "position")))
    rows, n = subject.harvest.tokens(), len(places)
    kl, later_kl = np.empty(n), np.empty(n) if later else None
    logits, before, after = (np.empty((n, len(columns)), np.float32) for _ in range(3))
    sums = np.zeros((len(arms), decomposition.vocab_size))
    kept = torch.from_numpy(columns).to(decomposition.device)
    order = np.arange(n) if later else np.argsort(places.position, kind="stable")
    longest = rows.shape[1] if later else int(places.position.max()) + 1
    step = max(1, _tokens_at_once(decomposition) // longest)
    for at in range(0, n, step):
        part = order[at : at + step]
        stop = longest if later else int(places.position[part].max()) + 1
        tokens, position, changed_ones = (
            torch.from_numpy(values).to(decomposition.device)
            for values in (rows[places.row[part], :stop].astype(np.int64), places.position[part], index[part])
        )
        with subject.as_harvested():
            pair = logit_pair(decomposition, tokens, layer, changed_ones, position, intervention)
        unchanged, changed = (run[torch.arange(len(part), device=run.device), position].double() for run in pair)
        kl[part] = kl_nats(unchanged, changed).cpu().numpy()
        difference = brought(unchanged, changed, intervention.mode)
        np.add.at(sums, arm[part], difference.cpu().numpy())
        for found, values in ((logits, difference), (before, unchanged.softmax(-1)), (after, changed.softmax(-1))):
            found[part] = values[:, kept].cpu().numpy()
        if later_kl is not None:
            counted = _after(subject, Sites(places.row[part], places.position[part]))
            later_kl[part] = (kl_nats(*pair).cpu().numpy() * counted).sum(1)
    ends = np.cumsum(sizes)
    return [
        Changes(
            kl=kl[end - size : end],
            later_kl=None if later_kl is None else later_kl[end - size : end],
            logits=logits[end - size : end],
            before=before[end - size : end],
            after=after[end - size : end],
            mean_logits=sums[number] / size,
        )
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def logit_pair(
    decomposition: Decomposition,
    tokens: Tensor,
    layer: str,
    index: Tensor,
    position: Tensor,
    intervention: Intervention,
) -> tuple[Tensor, Tensor]:
    """Logits [batch, seq, vocab] of rows unchanged and changed; see ``measure``.

    Args:
        decomposition: what runs.
        tokens: [batch, seq]
        layer: of all components.
        index: [batch] the component of each row.
        position: [batch] the site in each row.
        intervention: what is done.
    """
    is_it = torch.arange(decomposition.layers[layer], device=tokens.device) == index[:, None, None]  # [batch, 1, C]
    here = torch.ones_like(tokens, dtype=torch.bool)
    if intervention.where == "site":
        here = torch.arange(tokens.shape[1], device=tokens.device) == position[:, None]
    changed_ones = is_it & here[..., None]  # [batch, seq, C]
    if intervention.mode == "alone":
        assert intervention.where == "everywhere"  # the share of uncovered weights is one number for all positions
        nothing = torch.zeros(changed_ones.shape, device=tokens.device)
        without = decomposition.run_logits(tokens, {layer: nothing}, delta=0.0)
        return without, decomposition.run_logits(tokens, {layer: changed_ones.float()}, delta=0.0)
    ones = torch.ones(changed_ones.shape, device=tokens.device)
    if intervention.mode == "remove":
        unchanged = decomposition.run_logits(tokens, {layer: ones})
        return unchanged, decomposition.run_logits(tokens, {layer: (~changed_ones).float()})
    assert intervention.value is not None
    unchanged = decomposition.run(tokens, {layer: ones})
    natural = unchanged.activations[decomposition.ranking_kind][layer]
    clamp: dict[str | ComponentKey, float | Tensor] = {
        ComponentKey(layer, one): torch.where(changed_ones[..., one], intervention.value, natural[..., one])
        for one in index.unique().tolist()
    }
    return unchanged.logits, decomposition.run(tokens, {layer: ones}, clamp=clamp).logits


def brought(unchanged: Tensor, changed: Tensor, mode: Mode) -> Tensor:
    """Logits that the component brings to every next token, as [..., vocab].

    With the component minus without it ("remove": unchanged - changed; "alone": alone - nothing of the layer), for
    "clamp" at the set value minus at its own. A constant on all logits changes no probability; it is fixed so that the
    median over the vocabulary is 0 (the lower one of an even number). Unlike the mean, it does not move when a few
    tokens move.
    """
    difference = unchanged - changed if mode == "remove" else changed - unchanged
    return difference - difference.median(-1, keepdim=True).values


def kl_nats(unchanged: Tensor, changed: Tensor) -> Tensor:
    """KL(softmax(unchanged) || softmax(changed)) in nats, computed in float64: [..., vocab] -> [...]."""
    vocab = unchanged.shape[-1]
    step = max(1, _KL_NUMBERS // vocab)
    parts: list[Tensor] = []
    for first, second in zip(
        unchanged.reshape(-1, vocab).split(step), changed.reshape(-1, vocab).split(step), strict=True
    ):
        log_p, log_q = first.double().log_softmax(-1), second.double().log_softmax(-1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0))
    return torch.cat(parts).reshape(unchanged.shape[:-1])


def _after(subject: Subject, places: Sites) -> NDArray[np.bool_]:
    """[n, seq] counted positions after each site."""
    harvest = subject.harvest
    at = np.arange(harvest.seq_len)
    inside = (at > places.position[:, None]) & (at < np.asarray(harvest.row_lengths)[places.row][:, None])
    return inside if harvest.excluded is None else inside & ~harvest.excluded[places.row]


def _tokens_at_once(decomposition: Decomposition) -> int:
    per_token = decomposition.vocab_size + sum(decomposition.layers.values())
    return min(_BATCH_TOKENS, _NUMBERS_AT_ONCE // per_token)
