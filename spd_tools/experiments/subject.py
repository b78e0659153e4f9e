"""What experiments are done on: a harvest and the live model behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.analysis.weights import decomposition_of
from spd_tools.decompositions.base import Decomposition, computing_at
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Machine, Request, Response, SubjectInfo
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

BATCH_TOKENS = 8192
"""Tokens that go through the model at once. A constant: sums of other shapes round differently."""
MARKS = "«»"
"""Around the part of a text where a component should fire."""


@dataclass(frozen=True)
class Traces:
    """Activations of some components at every position of some rows of one length."""

    ranking: NDArray[np.float32]
    """[rows, seq, keys]"""
    gating: NDArray[np.float32]
    """[rows, seq, keys]"""
    threshold: float

    def response(self, response: Response) -> NDArray[np.float32]:
        """[rows, seq, keys] of what is measured."""
        if response == "ranking":
            return self.ranking
        return self.gating if response == "gating" else self.fires.astype(np.float32)

    @property
    def fires(self) -> NDArray[np.bool_]:
        """[rows, seq, keys]"""
        return self.gating > self.threshold


@dataclass(frozen=True)
class MarkedText:
    """A text's tokens and which of them its marks enclose."""

    tokens: list[int]
    marked: list[int]
    """Positions of tokens that lie at least partly between the marks; empty without marks."""


class Subject:
    """A harvest together with its decomposition, which is loaded when an experiment first needs it.

    The model is not thread-safe while something in it is changed: whoever shares a subject between threads holds a lock
    around each experiment.
    """

    def __init__(self, harvest: Harvest, decomposition: Decomposition | None = None, device: str = "cpu") -> None:
        """``decomposition``: where it is loaded already; otherwise it is found again from where it was harvested."""
        self.harvest = harvest
        self._device = device
        if decomposition is not None:
            self.__dict__["decomposition"] = decomposition

    @cached_property
    def decomposition(self) -> Decomposition:
        """The live model.

        Raises:
            SpdToolsError: when its weights are gone or have changed.
        """
        return decomposition_of(self.harvest).to(self._device)

    @cached_property
    def info(self) -> SubjectInfo:
        """Identity of what is experimented on."""
        manifest = self.harvest.manifest
        return SubjectInfo(
            run_id=self.harvest.run_id,
            harvest_id=self.harvest.harvest_id,
            fingerprint=manifest.decomposition.fingerprint,
            threshold=manifest.config.threshold,
            gating_kind=self.harvest.gating_kind,
            ranking_kind=self.harvest.ranking_kind,
        )

    def as_harvested(self) -> torch.autocast:
        """Within this the model computes at the precision it was harvested with (as ``harvest.live`` does).

        For the model's own computation only: ranking activations that are read off inputs are computed in float32.
        """
        return computing_at(self.harvest.manifest.config.precision, self.decomposition.device)

    def identity(self, request: Request) -> dict[str, Any]:
        """``id``, ``subject`` and ``machine`` of the result that answers a request."""
        question = json.dumps(
            [request.model_dump(mode="json"), self.info.model_dump(mode="json")], sort_keys=True, separators=(",", ":")
        )
        digest = hashlib.sha256(question.encode()).hexdigest()[:12]
        device = _described(self._device, self.harvest.manifest.config.precision)
        machine = Machine(device=device, torch=torch.__version__, spd_tools=version("spd-tools"))
        return {"id": f"{request.experiment}-{digest}", "subject": self.info, "machine": machine}

    def rng(self, request: Request, purpose: str) -> np.random.Generator:
        """A generator for one purpose: what one part of an experiment draws does not shift what another draws."""
        digest = hashlib.sha256(f"{request.seed} {request.key} {purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little"))

    # --- texts --------------------------------------------------------------------------------------------------

    def tokens_of(self, text: str) -> list[int]:
        """Tokens of a text as the harvest's tokenizer cuts it, without special tokens.

        Raises:
            SpdToolsError: without a tokenizer, and for a text that is empty or longer than the model's context.
        """
        return self.marked_tokens_of(text, marks=False).tokens

    def marked_tokens_of(self, text: str, *, marks: bool = True) -> MarkedText:
        """Tokens of a text in which «» may enclose the part where the component should fire.

        Raises:
            SpdToolsError: as ``tokens_of``, and for marks that do not enclose one part.
        """
        tokenizer = self.harvest.tokenizer
        if tokenizer is None:
            raise SpdToolsError(
                f"Harvest {self.harvest.harvest_id} of {self.harvest.run_id} has no tokenizer, so no text can be read; "
                "give rows of the harvest instead."
            )
        plain, start, stop = _without_marks(text) if marks else (text, 0, 0)
        try:
            encoding = tokenizer.encode(plain, add_special_tokens=False)
        except Exception:  # tokenizers raises it bare for a word without an unknown token to stand in
            raise SpdToolsError(
                f"The text {_short(text)} has a word that is not in the vocabulary of this harvest's tokenizer; leave "
                "it out."
            ) from None
        tokens: list[int] = list(encoding.ids)
        if not tokens:
            raise SpdToolsError(f"The text {_short(text)} has no tokens; give a longer one.")
        limit = self.harvest.manifest.decomposition.vocab_size
        if max(tokens) >= limit:
            raise SpdToolsError(
                f"The text {_short(text)} has the token {max(tokens)}, and the model knows {limit}; leave it out."
            )
        longest = self.decomposition.max_seq_len
        if len(tokens) > longest:
            raise SpdToolsError(
                f"The text {_short(text)} has {len(tokens):,} tokens and the model takes {longest:,}; shorten it."
            )
        marked = [at for at, (a, b) in enumerate(encoding.offsets) if a < stop and b > start and a < b]
        if stop > start and not marked:
            raise SpdToolsError(f"The marks in {_short(text)} enclose no token; put them around a word.")
        return MarkedText(tokens, marked)

    def token_of(self, token: int | str) -> int:
        """The single token that an id or a text is, with its leading space or without one.

        Raises:
            SpdToolsError: when it is none, or several.
        """
        from spd_tools.analysis.search import resolve_token

        return resolve_token(self.harvest, token)

    def shown(self, token: int | str) -> str:
        """A token in a sentence: quoted, what cannot be printed escaped.

        Raises:
            SpdToolsError: as ``token_of``.
        """
        return repr(self.harvest.token_texts.shown(self.token_of(token)))

    def row(self, row: int) -> NDArray[np.int64]:
        """Tokens of a harvest row, without its padding.

        Raises:
            SpdToolsError: for a row that the harvest has not.
        """
        if not 0 <= row < self.harvest.n_rows:
            raise SpdToolsError(
                f"There is no row {row} in harvest {self.harvest.harvest_id}; it has 0 to {self.harvest.n_rows - 1}."
            )
        return self.harvest.tokens()[row, : self.harvest.row_lengths[row]].astype(np.int64)

    # --- the model ----------------------------------------------------------------------------------------------

    def traces(self, tokens: NDArray[np.int64], keys: Sequence[str | ComponentKey]) -> Traces:
        """Activations of some components on rows of one length, the model unchanged.

        Args:
            tokens: [rows, seq]
            keys: components.
        """
        layers: dict[str, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            layer, index = self.harvest.keys.key(self.harvest.keys.flat(key))
            layers.setdefault(layer, []).append((place, index))
        shape = (*tokens.shape, len(keys))
        ranking, gating = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for part in self.batches(tokens.shape):
            self._trace(torch.from_numpy(tokens[part]), layers, ranking[part], gating[part])
        return Traces(ranking, gating, self.info.threshold)

    @torch.no_grad()
    def _trace(
        self,
        tokens: Tensor,
        layers: dict[str, list[tuple[int, int]]],
        ranking: NDArray[np.float32],
        gating: NDArray[np.float32],
    ) -> None:
        waiting = set(layers)
        with self.as_harvested():
            _, all_parts = self.decomposition.parts(tokens.to(self.decomposition.device))
        while waiting:
            with self.as_harvested():
                parts = next(all_parts)
            for place, index in layers.get(parts.layer, ()):
                gate = parts.gating[..., index].float().clamp(parts.low, parts.high)
                gating[..., place] = gate.cpu().numpy()
                if parts.inputs is not None:
                    assert parts.weights is not None
                    ranking[..., place] = (parts.inputs.float() @ parts.weights[index].float()).cpu().numpy()
                else:
                    rank = gate if parts.ranking is None else parts.ranking[..., index].float()
                    ranking[..., place] = rank.cpu().numpy()
            waiting.discard(parts.layer)

    def batches(self, shape: tuple[int, ...]) -> list[slice]:
        """Parts of [rows, seq] of at most BATCH_TOKENS tokens (or one row)."""
        step = max(1, BATCH_TOKENS // max(1, shape[1]))
        return [slice(at, at + step) for at in range(0, shape[0], step)]

    def text_of(self, tokens: Sequence[int] | NDArray[np.int64]) -> list[str | None]:
        """Text of every token, data and as hostile as data."""
        return [self.harvest.token_text(int(token)) for token in tokens]


def _described(device: str, precision: str) -> str:
    """A device with whatever sums on it depend on."""
    if torch.device(device).type == "cuda":
        described = f"{device}, {torch.cuda.get_device_name(device)}"
    else:
        described = f"{device}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return described if precision == "f32" else f"{described}, {precision}"


def by_length(rows: Sequence[Sequence[int]]) -> list[tuple[list[int], NDArray[np.int64]]]:
    """Rows of one length together, so that none needs padding: (their numbers, [n, length])."""
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(len(row), []).append(number)
    return [(numbers, np.array([rows[n] for n in numbers], np.int64)) for _, numbers in sorted(groups.items())]


def _without_marks(text: str) -> tuple[str, int, int]:
    start, stop = text.find(MARKS[0]), text.find(MARKS[1])
    if start < 0 and stop < 0:
        return text, 0, 0
    once = text.count(MARKS[0]) == 1 and text.count(MARKS[1]) == 1
    if not once or stop < start + 2:
        raise SpdToolsError(f"The text {_short(text)} needs one « and one » after it, around what should fire.")
    return text[:start] + text[start + 1 : stop] + text[stop + 1 :], start, stop - 1


def _short(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


Base = Literal["random", "firing", "silent"]
"""Where a context is taken from: any harvested position, one where the component fires, one where it does not."""
