"""Harvest, merge, prepare: what the doors call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from spd_tools.decompositions.base import Decomposition
from spd_tools.decompositions.planted import PlantedDecomposition
from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.firings import Firings
from spd_tools.harvest.live import run_batch
from spd_tools.harvest.merge import clean_up, merge_shards
from spd_tools.harvest.plan import HarvestPlan, make_plan
from spd_tools.harvest.progress import HarvestProgress, step_printer
from spd_tools.harvest.rows import Batch, HarvestRows
from spd_tools.harvest.state import latest_attempt, shard_folder
from spd_tools.harvest.worker import work
from spd_tools.settings import Settings
from spd_tools.store.inventory import unfinished_harvest
from spd_tools.store.schema import DataInfo, HarvestConfig
from spd_tools.tokens import DataConfig, Packing, TokenDataset, cached_rows, load_tokenizer, prepare_tokens

logger = logging.getLogger(__name__)

PLANTED_ROWS = 2048
"""Rows of the planted decomposition's corpus."""


@dataclass(frozen=True, kw_only=True)
class HarvestRequest:
    """What a user asks for; None means: as the run was trained."""

    run: str
    n_batches: int | None
    """None: all rows."""
    batch_size: int
    data: str | None = None
    split: str | None = None
    column: str | None = None
    seq_len: int | None = None
    tokenizer: str | None = None
    packing: Packing = "packed"
    exclude_tokens: tuple[int, ...] = ()
    device: str | None = None
    """None: CUDA where there is one, else the CPU."""
    precision: Literal["f32", "bf16"] = "f32"
    world_size: int = 1
    threshold: float | None = None
    """None: the decomposition's own."""
    p_min: float = 1e-3
    n_uniform: int = 100
    n_top: int = 100
    window: int = 20
    log_tokens: int = 1_000_000
    """The log takes every row where there are fewer tokens, else the share of rows that gives about as many."""
    seed: int = 0
    memory_gb: float = 2.0
    """Statistics kept in memory before they go to disk; the model's own memory comes on top."""


@dataclass(frozen=True)
class HarvestOutcome:
    """What became of a harvest."""

    run_id: str
    harvest_id: str
    folder: Path
    state: Literal["finished", "already finished", "rank finished"]
    n_tokens: int
    """Tokens counted: of the whole harvest, or of the rank when only that is finished."""
    seconds: float


def run_harvest(
    request: HarvestRequest,
    *,
    rank: int | None = None,
    resume: bool = False,
    progress: bool = True,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> HarvestOutcome:
    """Harvest a run; without ``rank`` all of it, merged, else the share of one rank.

    Args:
        request: what to harvest.
        rank: 0 <= rank < request.world_size.
        resume: go on from what an interrupted harvest saved.
        progress: show a bar on stderr.
        on_batch: called after every batch with (batches of this rank that are done, all of them).

    Raises:
        SpdToolsError: for bad input, unfinished work without ``resume``, a full disk, and whatever else a user can
            mend.
    """
    begin = time.monotonic()
    if rank is not None and not 0 <= rank < request.world_size:
        raise SpdToolsError(f"--rank {rank} is not below --world-size {request.world_size}.")
    if rank is None and request.world_size != 1:
        raise SpdToolsError("--world-size needs --rank: start every rank by itself, then run `spd-tools merge`.")
    decomposition = load_decomposition(request.run).to(_device(request))
    dataset = _dataset(decomposition, request)
    plan, rows = _plan(decomposition, dataset, request)
    if (plan.folder / "manifest.json").exists():
        clean_up(plan.folder)
        return _outcome(plan, "already finished", _n_tokens(plan), begin)
    _refuse_partial(plan, rank or 0, resume)
    plan.save(_tokenizer(decomposition, dataset, request))
    n_tokens = _work(plan, rank or 0, rows, decomposition, request, progress, on_batch)
    if rank is not None:
        return _outcome(plan, "rank finished", n_tokens, begin)
    with step_printer("Merging", enabled=progress) as on_step:
        manifest = merge_shards(plan, rows, memory_bytes=_memory_bytes(request.memory_gb), on_step=on_step)
    return _outcome(plan, "finished", manifest.counts.n_tokens, begin)


def merge_harvest(
    run: str, harvest_id: str | None = None, *, memory_gb: float = 2.0, progress: bool = True
) -> HarvestOutcome:
    """Merge an unfinished harvest whose ranks have all finished.

    Args:
        run: run id or reference.
        harvest_id: None takes the only unfinished harvest.

    Raises:
        SpdToolsError: when there is none or more than one (naming them), or when ranks are missing or disagree.
    """
    begin = time.monotonic()
    plan = HarvestPlan.load(unfinished_harvest(Settings.from_environment(), run, harvest_id))
    dataset = TokenDataset.open(Settings.from_environment().token_cache(plan.data.fingerprint))
    rows = HarvestRows(dataset, plan.config.seed, plan.config.n_batches, plan.config.batch_size)
    with step_printer("Merging", enabled=progress) as on_step:
        manifest = merge_shards(plan, rows, memory_bytes=_memory_bytes(memory_gb), on_step=on_step)
    return _outcome(plan, "finished", manifest.counts.n_tokens, begin)


def prepare(request: HarvestRequest) -> TokenDataset:
    """Download and tokenise only, so that the harvest itself needs no network."""
    return _dataset(load_decomposition(request.run), request)


def prepare_ranks(request: HarvestRequest) -> HarvestPlan:
    """Download, tokenise and write the plan: ranks that are started then need no network."""
    decomposition = load_decomposition(request.run)
    dataset = _dataset(decomposition, request)
    plan, _ = _plan(decomposition, dataset, request)
    if not (plan.folder / "manifest.json").exists():
        plan.save(_tokenizer(decomposition, dataset, request))
    return plan


def plan_ranks(request: HarvestRequest) -> HarvestPlan:
    """What ranks would do; nothing is written but the token file, where it is missing."""
    decomposition = load_decomposition(request.run)
    return _plan(decomposition, _dataset(decomposition, request), request)[0]


def _device(request: HarvestRequest) -> torch.device:
    name = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SpdToolsError(f"{name!r} is no device; take cpu, cuda or cuda:N.") from None
    if device.type == "mps":
        raise SpdToolsError("MPS has no float64, which exact sums need; harvest with --device cpu.")
    if device.type not in ("cpu", "cuda"):
        raise SpdToolsError(f"Harvesting on {device.type!r} is not supported; take cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpdToolsError("There is no CUDA device here; harvest with --device cpu.")
    return device


def _memory_bytes(memory_gb: float) -> int:
    if memory_gb <= 0:
        raise SpdToolsError(f"--memory-gb must be above 0, not {memory_gb}.")
    return int(memory_gb * 1e9)


def _dataset(decomposition: Decomposition, request: HarvestRequest) -> TokenDataset:
    """The token file that the request names, or the one that the run was trained on."""
    if isinstance(decomposition, PlantedDecomposition) and request.data is None:
        seq_len = request.seq_len or decomposition.max_seq_len
        _check_seq_len(decomposition, seq_len)
        return cached_rows(
            _planted_fingerprint(decomposition, seq_len, request.exclude_tokens),
            seq_len,
            decomposition.vocab_size,
            lambda: decomposition.corpus(PLANTED_ROWS, seq_len),
            decomposition.reference,
            decomposition.tokenizer,
            request.exclude_tokens,
        )
    data = _data_config(decomposition, request)
    _check_seq_len(decomposition, data.seq_len)
    return prepare_tokens(data, vocab_size=decomposition.vocab_size)


def _planted_fingerprint(decomposition: Decomposition, seq_len: int, exclude_tokens: tuple[int, ...]) -> str:
    parts = ["planted", decomposition.fingerprint[:16], seq_len, PLANTED_ROWS, *sorted(set(exclude_tokens))]
    return "-".join(map(str, parts))[:100]


def _check_seq_len(decomposition: Decomposition, seq_len: int) -> None:
    if not 1 <= seq_len <= decomposition.max_seq_len:
        raise SpdToolsError(
            f"--seq-len {seq_len} does not fit: "
            f"{decomposition.run_id} takes 1 to {decomposition.max_seq_len} positions."
        )


def _data_config(decomposition: Decomposition, request: HarvestRequest) -> DataConfig:
    trained = decomposition.training_data
    source = request.data or (trained and trained.dataset)
    if not source:
        raise SpdToolsError(f"{decomposition.run_id} does not say what it was trained on; name a data set with --data.")
    # Split, column and form are those of the data set that the run was trained on; another one has its own.
    own = trained if request.data is None else None
    n_rows = None if request.n_batches is None else request.n_batches * request.batch_size
    return DataConfig(
        source=source,
        seq_len=request.seq_len or (trained.seq_len if trained else decomposition.max_seq_len),
        tokenizer=request.tokenizer or (trained.tokenizer if trained else None),
        packing=request.packing,
        exclude_tokens=request.exclude_tokens,
        split=request.split or (own.split if own else "train"),
        column=request.column or (own.column if own else "text"),
        streaming=own is not None and own.streaming and n_rows is not None,
        is_tokenized=True if own and own.is_tokenized else None,
        max_rows=n_rows,
    )


def _plan(
    decomposition: Decomposition, dataset: TokenDataset, request: HarvestRequest
) -> tuple[HarvestPlan, HarvestRows]:
    rows = HarvestRows(dataset, request.seed, request.n_batches, request.batch_size)
    threshold = decomposition.default_threshold if request.threshold is None else request.threshold
    config = HarvestConfig(
        n_batches=rows.n_batches,
        batch_size=request.batch_size,
        seq_len=dataset.seq_len,
        threshold=threshold,
        precision=request.precision,
        p_min=request.p_min,
        n_uniform=request.n_uniform,
        n_top=request.n_top,
        window=request.window,
        log_share=min(1.0, request.log_tokens / (len(rows) * dataset.seq_len)),
        seed=request.seed,
        world_size=request.world_size,
    )
    tokenizer = request.tokenizer or (decomposition.training_data.tokenizer if decomposition.training_data else None)
    data = DataInfo(source=dataset.source, fingerprint=dataset.fingerprint, tokenizer=tokenizer)
    return make_plan(decomposition, data, config), rows


def _tokenizer(decomposition: Decomposition, dataset: TokenDataset, request: HarvestRequest) -> bytes | None:
    """The tokenizer to show text with; data that came tokenised is shown with the run's own, if that can be had."""
    if dataset.tokenizer_path is not None:
        return dataset.tokenizer_path.read_bytes()
    if request.tokenizer is not None:
        return load_tokenizer(request.tokenizer).to_str().encode()
    try:
        return decomposition.tokenizer.to_str().encode()
    except SpdToolsError as error:
        logger.warning("%s Token ids will be shown instead of text.", error)
        return None


def _work(
    plan: HarvestPlan,
    rank: int,
    rows: HarvestRows,
    decomposition: Decomposition,
    request: HarvestRequest,
    progress: bool,
    on_batch: Callable[[int, int], None],
) -> int:
    """Run one rank; returns the tokens counted by this process."""

    def run(batch: Batch, clock: StageClock) -> Firings:
        return run_batch(decomposition, batch.rows, batch.tokens, batch.included, plan.config, clock)

    n_batches = len(range(rank, rows.n_batches, plan.config.world_size))
    with HarvestProgress(rank, plan.config.world_size, n_batches, enabled=progress) as bar:

        def advance(tokens: int, index: int) -> None:
            bar.advance(tokens, index)
            on_batch(index // plan.config.world_size + 1, n_batches)

        work(
            plan,
            rank,
            rows,
            run,
            memory_bytes=_memory_bytes(request.memory_gb),
            sliced=decomposition.device.type == "cpu",
            on_batch=advance,
        )
    return bar.n_tokens


def _refuse_partial(plan: HarvestPlan, rank: int, resume: bool) -> None:
    shard = shard_folder(plan.folder, rank, plan.config.world_size)
    if not resume and latest_attempt(shard) is not None:
        raise SpdToolsError(
            f"Rank {rank} of harvest {plan.harvest_id} was begun earlier; go on with --resume, or remove it with "
            f"`spd-tools runs remove {plan.decomposition.run_id} --harvest {plan.harvest_id}`."
        )


def _n_tokens(plan: HarvestPlan) -> int:
    from spd_tools.store.reader import Harvest

    return Harvest.open(plan.folder).n_tokens


def _outcome(
    plan: HarvestPlan, state: Literal["finished", "already finished", "rank finished"], n_tokens: int, begin: float
) -> HarvestOutcome:
    return HarvestOutcome(
        plan.decomposition.run_id, plan.harvest_id, plan.folder, state, n_tokens, time.monotonic() - begin
    )
