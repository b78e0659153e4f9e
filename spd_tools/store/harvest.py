"""A finished harvest, open for reading: everything is memory-mapped, nothing but the asked-for is read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace
from spd_tools.store.columns import (
    ArrowRows,
    ComponentTable,
    find_in_lists,
    first_line,
    list_parts,
    map_array,
    numbers_of,
    unreadable,
)
from spd_tools.store.examples import StoredExamples, widen
from spd_tools.store.histogram import bin_edges
from spd_tools.store.manifest import check_contents, check_sizes, read_manifest
from spd_tools.store.pairs import Pairs
from spd_tools.store.records import (
    EXAMPLE_KINDS,
    PAIR_METRICS,
    SIDES,
    Activations,
    ComponentRecord,
    CorrelatedComponent,
    Example,
    ExampleKind,
    HistogramBin,
    PairMetric,
    Side,
)
from spd_tools.store.schema import (
    CORRELATIONS_SCHEMA,
    TOKEN_STATS_SCHEMA,
    VOCABULARY_SCHEMA,
    Manifest,
    components_schema,
    examples_schema,
    firings_schema,
)
from spd_tools.store.scores import TokenStats, at_least, chosen
from spd_tools.store.tokentext import TokenText

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKEN_COLUMNS = {"input": ("input_token", "input_count"), "output": ("output_token", "output_mass")}


class Harvest:
    """One finished harvest. Many threads may read it at once."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Use ``Harvest.open``."""
        self.folder = folder
        self.manifest = manifest
        self.run_id = manifest.decomposition.run_id
        self.harvest_id = manifest.harvest_id
        self.keys = KeySpace(dict(manifest.decomposition.layers))
        self.n_tokens = manifest.counts.n_tokens
        """T: positions harvested."""
        self.n_rows = manifest.counts.n_rows
        self.seq_len = manifest.config.seq_len
        self.kinds = list(manifest.decomposition.kinds)
        self.ranking_kind = manifest.decomposition.ranking_kind
        self.gating_kind = manifest.decomposition.gating_kind
        n = len(self.keys)
        self._components = ComponentTable(folder / "components.parquet", components_schema(self.kinds), n)
        self._examples = ArrowRows(folder / "examples.arrow", examples_schema(self.kinds), n)
        self._token_stats = ArrowRows(folder / "token_stats.arrow", TOKEN_STATS_SCHEMA, n)
        self._correlations = ArrowRows(folder / "correlations.arrow", CORRELATIONS_SCHEMA, n)
        self._log = ArrowRows(folder / "firings" / "log.arrow", firings_schema(self.kinds), n)
        vocabulary = ArrowRows(folder / "vocabulary.arrow", VOCABULARY_SCHEMA, manifest.decomposition.vocab_size)
        self._vocabulary = {"input": vocabulary.whole("input_count"), "output": vocabulary.whole("output_mass")}
        rows = (self.n_rows, self.seq_len)
        self._tokens: NDArray[Any] = map_array(folder / "tokens.npy", rows, ("uint16", "int32"))
        self.row_lengths: NDArray[np.int32] = map_array(folder / "row_lengths.npy", (self.n_rows,), ("int32",))
        """[rows] positions >= length are padding."""
        self.row_ids: NDArray[np.int64] = map_array(folder / "row_ids.npy", (self.n_rows,), ("int64",))
        """[rows] row numbers in the data set's token file."""
        logged = (manifest.counts.n_logged_rows,)
        self.logged_rows: NDArray[np.int64] = map_array(folder / "firings" / "rows.npy", logged, ("int64",))
        """[logged rows] rows of ``tokens()`` whose firings are all in the log, ascending."""
        self.excluded: NDArray[np.bool_] | None = None
        """[rows, seq] positions that count nowhere; None where there are none."""
        if "excluded.npy" in manifest.files:
            self.excluded = map_array(folder / "excluded.npy", rows, ("bool",))

    @classmethod
    def open(cls, folder: Path | str) -> Harvest:
        """Open a harvest's folder: checks its manifest and the sizes, schemas and lengths of its files.

        Raises:
            SpdToolsError: when it is unfinished, of a future version, or a file is missing, torn or foreign.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        return cls(folder, manifest)

    def verify(self) -> None:
        """Compare the sha256 of every file with the manifest; reads everything.

        Raises:
            SpdToolsError: naming the first file that differs.
        """
        check_contents(self.folder, self.manifest)

    # --- rows ---------------------------------------------------------------------------------------------------

    def tokens(self) -> NDArray[Any]:
        """[rows, seq] token ids (uint16 or int32) of the harvested rows, memory-mapped."""
        return self._tokens

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer stored with the harvest, read on first use; None where there is none."""
        return self.token_texts.tokenizer

    def token_text(self, token_id: int) -> str | None:
        """A token's text with its leading space; None without a tokenizer or for an id that it does not know."""
        return self.token_texts(token_id)

    @cached_property
    def token_texts(self) -> TokenText:
        """Text of tokens, alone and in a row."""
        if "tokenizer.json" not in self.manifest.files:
            return TokenText(None)
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        try:
            return TokenText(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises bare Exception
            raise unreadable(path, first_line(error)) from None

    @cached_property
    def logged_positions(self) -> NDArray[np.int64]:
        """[seq] logged tokens that count (neither padding nor excluded) at each position of a row, read-only."""
        lengths = self.row_lengths[self.logged_rows]
        counts = np.cumsum(np.bincount(lengths, minlength=self.seq_len + 1)[::-1])[::-1][1:].astype(np.int64)
        if self.excluded is not None:
            inside = np.arange(self.seq_len) < lengths[:, None]
            counts -= (self.excluded[self.logged_rows] & inside).sum(0)
        counts.setflags(write=False)
        return counts

    def counted(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[rows, seq] which positions of some rows count: those that are neither padding nor excluded."""
        inside = np.arange(self.seq_len) < np.asarray(self.row_lengths)[rows][:, None]
        if self.excluded is not None:
            inside &= ~self.excluded[rows]
        return inside

    # --- components ---------------------------------------------------------------------------------------------

    @cached_property
    def firing_counts(self) -> NDArray[np.int64]:
        """[C] n_c of all components, in flat-index order, read-only."""
        chunks = self._components.columns(["firing_count"])["firing_count"].chunks
        counts = np.concatenate([numbers_of(chunk) for chunk in chunks])
        counts.setflags(write=False)
        return counts

    def components(self) -> list[ComponentRecord]:
        """All components in flat-index order, dead ones too."""
        columns = self._components.columns(self._record_columns)
        values = [columns[name].to_pylist() for name in self._record_columns]
        return [
            self._record(key, dict(zip(self._record_columns, row, strict=True)))
            for key, row in zip(self.keys, zip(*values, strict=True), strict=True)
        ]

    def component(self, key: str | ComponentKey) -> ComponentRecord:
        """One component.

        Raises:
            SpdToolsError: for an unknown layer or component.
        """
        flat = self.keys.flat(key)
        return self._record(self.keys.key(flat), self._components.row(flat))

    def histogram(self, key: str | ComponentKey) -> list[HistogramBin]:
        """Histogram of the ranking activation at firings: the bins that are not empty, ascending."""
        row = self._components.row(self.keys.flat(key))
        edges = map(bin_edges, row["histogram_bin"])
        bins = sorted(zip(edges, row["histogram_count"], strict=True))
        return [HistogramBin(low=low, high=high, count=count) for (low, high), count in bins]

    @cached_property
    def _record_columns(self) -> list[str]:
        return [name for name in components_schema(self.kinds).names if not name.startswith("histogram_")]

    def _record(self, key: ComponentKey, row: dict[str, Any]) -> ComponentRecord:
        n = row["firing_count"]

        def means(column: str, over: int) -> dict[str, float]:
            return {kind: row[f"{column}/{kind}"] / over for kind in self.kinds}

        return ComponentRecord(
            key=key,
            index=row["index"],
            firing_count=n,
            density=n / self.n_tokens,
            mean_activations=means("sum", self.n_tokens),
            mean_firing_activations=means("firing_sum", n) if n else None,
            mean_abs_firing_activations=means("abs_firing_sum", n) if n else None,
            dropped_output_mass=row["dropped_output_mass"],
            logged_firings=row["logged_firings"],
            effective_max=row["effective_max"],
        )

    # --- one component's evidence -------------------------------------------------------------------------------

    def examples(
        self,
        key: str | ComponentKey,
        kind: ExampleKind = "uniform",
        limit: int = 20,
        context: int = 20,
        *,
        max_per_token: int | None = None,
    ) -> list[Example]:
        """Firings with ``context`` tokens to each side, cut at the ends of the row.

        "uniform": a uniform sample of all firings (any prefix is one); "top": by descending |ranking activation|.

        Args:
            key: the component.
            kind: which of the two.
            limit: longest list.
            context: tokens to each side.
            max_per_token: no more examples than this on one firing token, the first of them; a component of the first
                layer otherwise shows one token over and over.

        Raises:
            SpdToolsError: for an unknown component or kind, or a negative limit or context.
        """
        flat = self.keys.flat(key)
        chosen(kind, EXAMPLE_KINDS, "kind of examples")
        at_least(limit, 0, "The limit of a list")
        at_least(context, 0, "The context")
        if max_per_token is None:
            stored = StoredExamples.read(self._examples, flat, kind, limit, self.kinds)
        else:
            at_least(max_per_token, 1, "The number of examples per token")
            stored = self.stored_examples(key, kind).of_many_tokens(self._tokens, max_per_token, limit)
        return self.widened(key, stored, context)

    def stored_examples(self, key: str | ComponentKey, kind: ExampleKind = "uniform") -> StoredExamples:
        """All examples of a kind as they are stored, to choose from before ``widened`` makes records of the chosen.

        Raises:
            SpdToolsError: for an unknown component or kind.
        """
        flat = self.keys.flat(key)
        chosen(kind, EXAMPLE_KINDS, "kind of examples")
        return StoredExamples.read(self._examples, flat, kind, None, self.kinds)

    def widened(self, key: str | ComponentKey, stored: StoredExamples, context: int = 20) -> list[Example]:
        """Stored examples of a component with ``context`` tokens to each side, cut at the ends of the row.

        Raises:
            SpdToolsError: for an unknown component or a negative context.
        """
        at_least(context, 0, "The context")
        context, log = min(context, self.seq_len), self.activations(key)
        return widen(stored, context, self._tokens, self.row_lengths, self.row_ids, log, self.token_text)

    def example_tokens(self, key: str | ComponentKey, kind: ExampleKind = "uniform") -> NDArray[Any]:
        """[n] token ids that all stored examples of a kind fire on, in their order.

        Raises:
            SpdToolsError: for an unknown component or kind.
        """
        stored = self.stored_examples(key, kind)
        return self._tokens[stored.row, stored.position]

    def activations(self, key: str | ComponentKey) -> Activations:
        """All firings of a component in the logged rows: views of the mapped file, nothing is copied."""
        flat = self.keys.flat(key)
        values = {kind: self._log.numbers(flat, kind) for kind in self.kinds}
        return Activations(self._log.numbers(flat, "token"), values, self.seq_len)

    def token_stats(self, key: str | ComponentKey, side: Side = "input") -> TokenStats:
        """Tokens on which a component fires ("input") or that the model predicts there ("output").

        Raises:
            SpdToolsError: for an unknown component or side.
        """
        token, count = self.token_counts(key, side)
        flat = self.keys.flat(key)
        dropped = float(self._components.row(flat)["dropped_output_mass"]) if side == "output" else None
        return TokenStats(
            side=side,
            token=token,
            count=count,
            total=self.vocabulary(side)[token],
            firing_count=int(self.firing_counts[flat]),
            n_tokens=self.n_tokens,
            dropped_mass=dropped,
            text_of=self.token_text,
        )

    def token_counts(self, key: str | ComponentKey, side: Side = "input") -> tuple[NDArray[np.int32], NDArray[Any]]:
        """(token ids, ascending; M_cv > 0 of each) of ``token_stats`` alone: views of the mapped file.

        Raises:
            SpdToolsError: for an unknown component or side.
        """
        flat = self.keys.flat(key)
        chosen(side, SIDES, "side")
        tokens, counts = _TOKEN_COLUMNS[side]
        return self._token_stats.numbers(flat, tokens), self._token_stats.numbers(flat, counts)

    def vocabulary(self, side: Side) -> NDArray[Any]:
        """[V] I_v (int64) or O_v (float64): totals over all harvested positions."""
        chosen(side, SIDES, "side")
        return self._vocabulary[side]

    def token_column(self, token_id: int, side: Side = "input") -> NDArray[Any]:
        """[C] M_cv of one token for all components: int64 (input) or float64 (output).

        Raises:
            SpdToolsError: for a token outside the vocabulary.
        """
        chosen(side, SIDES, "side")
        self.check_token(token_id)
        keys, values = _TOKEN_COLUMNS[side]
        column = np.zeros(len(self.keys), np.int64 if side == "input" else np.float64)
        for start, batch in self._token_stats.batches():
            tokens, offsets = list_parts(batch.column(keys))
            row, entry = find_in_lists(tokens, offsets, token_id)
            column[start + row] = list_parts(batch.column(values))[0][entry]
        return column

    def check_token(self, token_id: int) -> None:
        """Refuse a token id outside the vocabulary."""
        vocab_size = self.manifest.decomposition.vocab_size
        if not 0 <= token_id < vocab_size:
            raise SpdToolsError(f"There is no token {token_id}; the vocabulary has ids 0 to {vocab_size - 1}.")

    # --- pairs --------------------------------------------------------------------------------------------------

    def cooccurrence(self, key_i: str | ComponentKey, key_j: str | ComponentKey) -> int:
        """n_ij: positions at which both fire, exactly; n_ii = n_i."""
        i, j = self.keys.flat(key_i), self.keys.flat(key_j)
        if i == j:
            return int(self.firing_counts[i])
        partners = self._correlations.numbers(i, "partner")
        at = int(np.searchsorted(partners, j))
        found = at < len(partners) and partners[at] == j
        return int(self._correlations.numbers(i, "count")[at]) if found else 0

    def n_partners(self, key: str | ComponentKey) -> int:
        """Other components that fired together with this one at least once."""
        return len(self._correlations.numbers(self.keys.flat(key), "partner"))

    def pairs(self, key: str | ComponentKey) -> Pairs:
        """A component with all others, to rank by several metrics.

        Raises:
            SpdToolsError: for an unknown component.
        """
        i = self.keys.flat(key)
        partner, count = (self._correlations.numbers(i, column) for column in ("partner", "count"))
        return Pairs.of(i, partner, count, self.firing_counts, self.n_tokens)

    def correlated(
        self, key: str | ComponentKey, metric: PairMetric = "pmi", limit: int = 20, weakest: bool = False
    ) -> list[CorrelatedComponent]:
        """Components that fire with this one most (or, ``weakest``, least) by a metric.

        Lists by PMI and of the weakest hold pairs with an expected count of at least 5; among the weakest are pairs
        that never fired together. Ties: the larger expectation first, then the smaller index.

        Raises:
            SpdToolsError: for an unknown component or metric, or a negative limit.
        """
        chosen(metric, PAIR_METRICS, "metric of component pairs")
        at_least(limit, 0, "The limit of a list")
        pairs = self.pairs(key)
        return pairs.records(pairs.ranked(metric, limit, weakest), metric, self.keys)
