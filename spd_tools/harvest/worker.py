"""One rank of a harvest: its batches, one after the other, into segments."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.allocator import memory_kept
from spd_tools.harvest.buffer import FiringBuffer
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.disk import MOST_OVER, DiskEstimate
from spd_tools.harvest.firings import Firings
from spd_tools.harvest.parallel import Pipeline, n_threads, one_thread_each
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.rows import Batch, HarvestRows
from spd_tools.harvest.sections import SectionReader
from spd_tools.harvest.segment import write_segment
from spd_tools.harvest.state import StateFile, shard_folder

CHECKPOINT_SECONDS = 180.0

SLICE_TOKENS = 1024
"""On the CPU every thread takes slices of about this many tokens through the model and the statistics: what one
operator leaves is still in the core's cache when the next one reads it. The same everywhere, for equal numbers."""

RunBatch = Callable[[Batch, StageClock], Firings]
"""What turns some rows into firings: the model, or a test's."""
OnBatch = Callable[[int, int], None]
"""Called after each batch with the tokens in it and the global batch's number."""

logger = logging.getLogger(__name__)


class StoppedError(SpdToolsError):
    """The worker was asked to stop, and saved its state."""


def work(
    plan: HarvestPlan,
    rank: int,
    rows: HarvestRows,
    run_batch: RunBatch,
    *,
    memory_bytes: int,
    sliced: bool = True,
    on_batch: OnBatch = lambda tokens, index: None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    clock: StageClock | None = None,
) -> None:
    """Harvest one rank's batches, going on from whatever this rank has saved.

    Args:
        plan: what the harvest does.
        rank: 0 <= rank < world size; the rank takes batches with index % world size == rank.
        rows: the harvest's rows.
        run_batch: runs the model.
        memory_bytes: a segment is written when the statistics in memory reach this.
        sliced: run batches in slices, in as many threads as torch has (the CPU); else whole, in one (a GPU).
        on_batch: progress.
        checkpoint_seconds: a segment is written at least this often.
        clock: where the seconds are added up.

    Raises:
        StoppedError: after SIGTERM or SIGINT, when the state is saved.
        SupersededError: when another process took over this rank.
        SpdToolsError: when the disk is too small or an activation is NaN.
    """
    clock = clock or StageClock()
    config = plan.config
    folder = shard_folder(plan.folder, rank, config.world_size)
    state = StateFile.begin(folder, plan.harvest_id, rank, config.world_size)
    if state.state.finished:
        return
    buffer = FiringBuffer(config, plan.decomposition.layers, plan.decomposition.vocab_size, plan.decomposition.kinds)
    for segment in state.state.segments:
        _restore_examples(buffer, SectionReader(folder / segment.name))
    last_save = last_batch = time.monotonic()
    checks_left = 2
    slice_rows = max(1, SLICE_TOKENS // config.seq_len) if sliced else config.batch_size

    def take_in(rows: Batch) -> None:
        buffer.add(run_batch(rows, clock), clock)

    indices = range(state.state.next_batch, rows.n_batches, config.world_size)
    with _stop_signals() as stop_asked, memory_kept(), one_thread_each() if sliced else nullcontext():
        # A GPU gets its next batch while the host counts the last one.
        running = Pipeline(take_in, 2 * n_threads() if sliced else 2)
        for index in indices:
            with clock("reading"):
                batch = rows.batch(index)
            running.submit(batch.slices(slice_rows))
            on_batch(int(batch.included.sum()), index)
            overdue = time.monotonic() - last_save > checkpoint_seconds
            if not checks_left and not (buffer.bytes > memory_bytes or overdue or stop_asked()):
                continue
            running.wait()
            if checks_left:
                # How long a batch takes is told by the second one: during the first, kernels are compiled.
                seconds = time.monotonic() - last_batch if checks_left == 1 else 0.0
                disk = DiskEstimate(plan, len(rows), buffer.sample())
                n_segments = disk.n_segments(memory_bytes, seconds, checkpoint_seconds)
                _check_disk(plan, disk.bytes(n_segments), warn=checks_left == 1)
                checks_left -= 1
            if buffer.bytes > memory_bytes or overdue or stop_asked():
                _save(state, buffer, index + config.world_size, clock, finished=False)
                last_save = time.monotonic()
            if stop_asked():
                raise StoppedError(
                    f"Stopped; rank {rank} of harvest {plan.harvest_id} is saved and goes on with --resume."
                )
            last_batch = time.monotonic()
        running.wait()
        _save(state, buffer, max(rows.n_batches, state.state.next_batch), clock, finished=True)


def _save(state: StateFile, buffer: FiringBuffer, next_batch: int, clock: StageClock, *, finished: bool) -> None:
    segment = None
    if buffer.n_positions:
        state.check_current()
        segment = state.segment_path()
        write_segment(segment, buffer, clock)
    with clock("state"):
        state.advance(next_batch=next_batch, segment=segment, finished=finished)


def _restore_examples(buffer: FiringBuffer, segment: SectionReader) -> None:
    for layer in buffer.examples:
        for sketch in layer.sketches:
            kind = sketch.kind
            starts = segment.read(f"{kind}/indptr", layer.start, layer.start + layer.n_components + 1)
            span = int(starts[0]), int(starts[-1])
            sketch.restore(np.diff(starts), segment.read(f"{kind}/rank", *span), segment.read(f"{kind}/key", *span))


def _check_disk(plan: HarvestPlan, needed: int, *, warn: bool) -> None:
    """The first batches say how many components fire per token; from that a bound of the disk can be told."""
    there = 0
    for path in (plan.folder / "shards").glob("*/segment-*.sections"):
        with suppress(FileNotFoundError):  # another rank has swept it away
            there += path.stat().st_size
    free = shutil.disk_usage(plan.folder).free
    least = needed / MOST_OVER
    said = f"in {plan.folder} and {free / 1e9:.1f} GB are free"
    if least - there > free:
        raise SpdToolsError(
            f"This harvest may need {needed / 1e9:.1f} GB, and {least / 1e9:.1f} at least, {said}; free some space, "
            "choose another SPD_OUT_DIR, lower --n-batches, --log-tokens or the number of examples, or raise "
            "--memory-gb."
        )
    if warn and needed - there > free:
        logger.warning(
            "This harvest may need %.1f GB %s. Should they be used up, what is saved stays, and --resume goes on.",
            needed / 1e9,
            said,
        )


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and SIGINT into a question that the loop asks after every batch."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
