import unicodedata

import pytest

from spd_tools.files import write_json
from spd_tools.launch.jobs import LOG, REQUEST, JobState, write_state
from spd_tools.settings import Settings

ID = "harvest-0123456789ab"


@pytest.fixture
def job(out_dir):
    """A job that failed; its log is hostile."""
    folder = Settings.from_environment().jobs_dir / ID
    folder.mkdir(parents=True)
    write_json(folder / REQUEST, {"run": "demo\x1b[31m", "n_batches": 4})
    times = {"created": 1e9, "started": 1e9 + 1, "ended": 1e9 + 2}
    write_state(folder, JobState(id=ID, status="failed", batches_done=1000, error="The disk is full\x9b.", **times))
    (folder / LOG).write_bytes(b"one\n\x1b[2Jtwo\n")


def test_jobs_are_listed(job, run, run_json):
    assert [(found["state"]["id"], found["status"]) for found in run_json("jobs")] == [(ID, "failed")]
    line = run("jobs")[1].splitlines()[-1]
    assert {ID, "demo␛[31m", "failed", "1,000", "–"} <= set(line.split())


def test_a_job_is_shown_with_its_error_and_the_end_of_its_log(job, run, run_json):
    assert run_json("jobs", "show", ID)["state"]["error"] == "The disk is full\x9b."
    out = run("jobs", "show", ID)[1]
    assert {"one", "␛[2Jtwo"} <= set(out.split())
    assert "The disk is full<U+009B>." in out
    assert {char for char in out if unicodedata.category(char) in {"Cc", "Cf"}} <= {"\n"}
