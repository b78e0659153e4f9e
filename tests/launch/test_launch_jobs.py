import fcntl
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, pipeline
from spd_tools.launch import harvest_job, job_status, jobs, list_jobs, start_harvest
from spd_tools.launch.jobs import JobState, read_state, write_state
from spd_tools.settings import Settings

REQUEST = HarvestRequest(run="demo", n_batches=2, batch_size=8)


class StubProcess:
    """Instead of a process: keeps what it would have been given, and its lock while it lives."""

    started = ()

    def __init__(self, argv, pass_fds, **options):
        self.folder = argv[-1]
        self.options = options
        self.lock = os.dup(pass_fds[0])
        StubProcess.started = (*StubProcess.started, self)

    def wait(self):
        return 0

    def die(self):
        os.close(self.lock)


@pytest.fixture
def processes(monkeypatch):
    """No process is started; those that would have been."""
    monkeypatch.setattr(StubProcess, "started", ())
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=StubProcess, DEVNULL=subprocess.DEVNULL))
    yield lambda: StubProcess.started
    for process in StubProcess.started:
        try:
            process.die()
        except OSError:
            continue  # dead already


def run_here(job, monkeypatch):
    """Do the job's work in this process."""
    monkeypatch.setattr(sys, "argv", ["harvest_job", str(job.folder)])
    return harvest_job.main()


def test_a_started_job_is_pending_and_detached(processes):
    job = start_harvest(REQUEST)
    assert job.status == "pending"
    assert job.request["run"] == "demo"
    [process] = processes()
    assert process.options["start_new_session"]
    assert process.folder == str(job.folder)


def test_a_request_that_is_being_worked_on_is_not_started_twice(processes):
    first = start_harvest(REQUEST)
    assert start_harvest(REQUEST).state.id == first.state.id
    other = start_harvest(HarvestRequest(run="demo", n_batches=3, batch_size=8))
    assert other.state.id != first.state.id
    assert len(processes()) == 2


def test_a_job_whose_process_is_gone_has_died_and_may_be_started_again(processes):
    first = start_harvest(REQUEST)
    processes()[0].die()
    assert job_status(first.state.id).status == "died"
    assert start_harvest(REQUEST).state.id != first.state.id


def test_a_job_that_has_finished_did_not_die(processes, monkeypatch):
    job = start_harvest(REQUEST)
    assert run_here(job, monkeypatch) == 0
    processes()[0].die()
    found = job_status(job.state.id)
    assert found.status == "finished"
    assert found.state.batches_done == found.state.batches_total == 2
    assert found.state.n_tokens == 2 * 8 * 64
    assert (Settings.from_environment().harvest("demo", found.state.harvest_id) / "manifest.json").is_file()
    assert found.state.created <= found.state.started <= found.state.ended


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (HarvestRequest(run="no/such/run", n_batches=1, batch_size=1), "There is no run"),
        (HarvestRequest(run="demo", n_batches=1, batch_size=8, device="toaster"), "no device"),
    ],
)
def test_a_failed_job_says_why(processes, monkeypatch, request_, said):
    job = start_harvest(request_)
    assert run_here(job, monkeypatch) == 1
    state = job_status(job.state.id).state
    assert state.status == "failed"
    assert said in state.error


def test_a_bug_in_a_job_is_not_hidden(processes, monkeypatch, capsys):
    def crash(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(harvest_job, "run_harvest", crash)
    job = start_harvest(REQUEST)
    assert run_here(job, monkeypatch) == 1
    assert "ZeroDivisionError" in job_status(job.state.id).state.error
    assert "Traceback" in capsys.readouterr().err


def test_a_request_that_is_damaged_fails_with_a_sentence(processes, monkeypatch):
    job = start_harvest(REQUEST)
    (job.folder / "request.json").write_text("{}")
    assert run_here(job, monkeypatch) == 1
    assert "asks for no harvest" in read_state(job.folder).error


def test_a_job_tells_how_many_batches_are_done(processes, monkeypatch):
    seen = []
    merge = pipeline.merge_shards

    def look(*args, **kwargs):
        state = job_status(job.state.id).state
        seen.append((state.batches_done, state.batches_total))
        return merge(*args, **kwargs)

    monkeypatch.setattr(pipeline, "merge_shards", look)
    monkeypatch.setattr(harvest_job, "REPORT_SECONDS", 0)
    job = start_harvest(REQUEST)
    assert run_here(job, monkeypatch) == 0
    assert seen == [(2, 2)]


def test_reports_of_progress_are_rare(processes, monkeypatch):
    seen = []
    merge = pipeline.merge_shards

    def look(*args, **kwargs):
        seen.append(job_status(job.state.id).state.batches_done)
        return merge(*args, **kwargs)

    monkeypatch.setattr(pipeline, "merge_shards", look)
    monkeypatch.setattr(harvest_job, "REPORT_SECONDS", 1e9)
    job = start_harvest(REQUEST)
    assert run_here(job, monkeypatch) == 0
    assert seen == [1]  # the first is always told


def test_an_unknown_job_names_the_newest(processes):
    job = start_harvest(REQUEST)
    for name in ("harvest-000000000000", "../jobs", "", "/etc", "x" * 300, "a\x00b"):
        with pytest.raises(SpdToolsError, match=job.state.id):
            job_status(name)


def test_the_newest_comes_first_and_a_damaged_one_hides_no_other(processes):
    found = [start_harvest(HarvestRequest(run="demo", n_batches=n, batch_size=8)) for n in (1, 2, 3)]
    (found[1].folder / "state.json").write_text("torn")
    assert [job.state.id for job in list_jobs()] == [found[2].state.id, found[0].state.id]
    with pytest.raises(SpdToolsError, match=r"state\.json cannot be read"):
        job_status(found[1].state.id)


def test_the_end_of_the_log_is_shown(processes):
    job = start_harvest(REQUEST)
    (job.folder / "log").write_bytes(b"x" * 100_000 + b"\xff the end")
    tail = job_status(job.state.id).log_tail
    assert tail.endswith("the end")
    assert len(tail) <= 4_000


def test_no_folder_no_job(out_dir):
    out_dir.mkdir()
    (out_dir / "jobs").write_text("in the way")
    with pytest.raises(SpdToolsError, match="No job could be started"):
        start_harvest(REQUEST)


def test_a_state_is_what_was_written(tmp_path):
    state = JobState(id="harvest-0123456789ab", status="running", created=1.5, batches_done=0)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert json.loads((tmp_path / "state.json").read_text())["batches_total"] is None


def test_two_readers_do_not_take_each_other_for_a_job(processes):
    job = start_harvest(REQUEST)
    processes()[0].die()
    with (job.folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert job_status(job.state.id).status == "died"
