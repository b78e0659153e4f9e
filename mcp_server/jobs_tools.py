"""Tools that start long work and look after it."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server.answers import QUOTED, capped, inert, quoted, table
from mcp_server.parameters import MAX_NAME, MAX_TEXT, OptionalText
from mcp_server.tools import READS, STARTS, tool
from spd_tools.errors import SpdToolsError
from spd_tools.launch import Job, job_status, list_jobs, start_harvest

_LISTED = 20
_NAME = Field(max_length=MAX_NAME)


class Jobs:
    """Harvests that run on their own."""

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.harvest_start, "Start a harvest", STARTS),
            tool(self.job_status, "State of jobs", READS),
        ]

    def harvest_start(
        self,
        reference: Annotated[
            str,
            Field(
                min_length=1,
                max_length=4096,
                description="folder or checkpoint of an SPD run, wandb:ENTITY/PROJECT/RUN_ID, planted[:SEED] or demo",
            ),
        ],
        n_batches: Annotated[
            int | Literal["all"], Field(description='batches to count, at least 1, or "all" rows of the data set')
        ],
        batch_size: Annotated[int, Field(ge=1, le=1_000_000, description="rows per batch")],
        data: Annotated[OptionalText, _NAME, Field(description="data set; default: what it was trained on")] = "",
        split: Annotated[OptionalText, _NAME] = "",
        column: Annotated[OptionalText, _NAME] = "",
        seq_len: Annotated[int | None, Field(ge=1, description="positions per row; default: as trained")] = None,
        tokenizer: Annotated[OptionalText, _NAME] = "",
        device: Annotated[
            OptionalText, _NAME, Field(description="cpu, cuda or cuda:N; default: CUDA where there is one")
        ] = "",
        threshold: Annotated[float | None, Field(description="fires strictly above; default: the run's own")] = None,
        seed: Annotated[int, Field(ge=0, lt=2**63, description="of row order and sampling")] = 0,
    ) -> str:
        """Start counting what every component of a run does, in one pass over data; returns a job id at once.

        The job is a process of its own: it goes on when this server or the conversation ends, and takes from seconds
        (demo) to hours. It uses the CPU or GPU of the server's machine and may download the run and its data set. The
        same request again continues an interrupted harvest, reports a finished one, or returns the job that is working
        on it. Next: job_status with the id until it is finished, then runs.
        """
        from spd_tools.harvest import HarvestRequest

        if isinstance(n_batches, int) and n_batches < 1:
            raise SpdToolsError(f'n_batches is {n_batches}; give a number of at least 1, or "all".')
        request = HarvestRequest(
            run=reference,
            n_batches=None if n_batches == "all" else n_batches,
            batch_size=batch_size,
            data=data or None,
            split=split or None,
            column=column or None,
            seq_len=seq_len,
            tokenizer=tokenizer or None,
            device=device or None,
            threshold=threshold,
            seed=seed,
        )
        job = start_harvest(request)
        return f"{_page(job)}\nNext: job_status with job_id={job.state.id}."

    def job_status(
        self,
        job_id: Annotated[
            OptionalText, _NAME, Field(description="as harvest_start returned it; default: list all jobs")
        ] = "",
    ) -> str:
        """State of one job (pending, running, finished, failed, died), its progress in batches and the end of its log.

        A failed job says why in one sentence. One that died was killed or ran out of memory: what it had saved is not
        lost, harvest_start with the same parameters goes on from there. Progress is what is safely on disk, written
        every few minutes. Without job_id: the newest jobs.
        """
        if job_id:
            return _page(job_status(job_id))
        jobs = list_jobs()
        if not jobs:
            return "No job has been started."
        rows = [
            [job.state.id, job.status, inert(str(job.request.get("run")), 80), _batches(job)] for job in jobs[:_LISTED]
        ]
        more = f"\n{len(jobs) - _LISTED} older ones are not shown." if len(jobs) > _LISTED else ""
        return capped(table(["job", "state", "run", "batches"], rows) + more, "Ask for one by its job_id.")


def _batches(job: Job) -> str:
    done, total = job.state.batches_done, job.state.batches_total
    return "none yet" if done is None or total is None else f"{done:,} of {total:,}"


def _page(job: Job) -> str:
    state = job.state
    seconds = (state.ended or time.time()) - (state.started or state.created)
    lines = [f"Job {state.id}: {job.status} after {seconds:.0f} s; batches: {_batches(job)}."]
    if state.error is not None:
        lines.append(f"It failed: {inert(state.error, MAX_TEXT)}")
    if job.status == "died":
        lines.append(
            "Its process is gone without a word; harvest_start with the same parameters goes on from what it saved."
        )
    if state.harvest_id is not None and state.run_id is not None:
        run, harvest = inert(state.run_id, 200), inert(state.harvest_id, 200)
        lines.append(f"Harvest {harvest} of run {run} is ready: find_components with run={run}.")
    if job.log_tail:
        log = "\n".join(quoted(line, 500) for line in job.log_tail.splitlines()[-20:])
        lines.append(f"End of its log ({inert(str(job.folder / 'log'), 500)}). {QUOTED}\n{log}")
    return "\n".join(lines)
