"""The process of a task: the code it imports, and what signals do to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Fork, wait_until

from spd_tools.errors import SpdToolsError
from spd_tools.launch import kinds, run_task
from spd_tools.launch.folder import JobFolder, JobRequest
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.kinds import Kind, TaskStoppedError
from spd_tools.launch.state import TaskFile, read_attempts, read_states
from spd_tools.launch.task import Task
from spd_tools.store.records import Record

ROOT = Path(__file__).resolve().parents[2]
ISOLATE = """
import sys
from pathlib import Path
from spd_tools.launch.task import isolate
isolate(Path(sys.argv[1]))
import spd_tools, importlib
print(spd_tools.__file__)
try:
    importlib.import_module("spd_tools.added_later")
except ImportError:
    print("not seen")
"""


def test_a_module_added_to_the_checkout_later_is_not_seen(tmp_path):
    code, checkout = tmp_path / "code", tmp_path / "checkout"
    for place in (code, checkout):
        (place / "spd_tools" / "launch").mkdir(parents=True)
        for name in ("__init__.py", "launch/__init__.py", "launch/task.py"):
            (place / "spd_tools" / name).write_bytes((ROOT / "spd_tools" / name).read_bytes())
    (checkout / "spd_tools" / "added_later.py").touch()
    finder = tmp_path / "__editable___spd_tools_finder.py"
    finder.write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        f"MAPPING = {{'spd_tools': {str(checkout / 'spd_tools')!r}}}\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return PathFinder.find_spec(name, [MAPPING['spd_tools']]) if name.startswith('spd_tools.') else None\n"
        "sys.meta_path.append(Finder)\n"
    )
    script = f"import sys; sys.path.append({str(tmp_path)!r}); import {finder.stem}\n" + ISOLATE
    paths = os.pathsep.join([str(code), str(checkout)])
    done = subprocess.run(
        [sys.executable, "-c", script, str(code)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == [str(code / "spd_tools" / "__init__.py"), "not seen"]


def test_code_that_was_imported_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "code").mkdir()
    with pytest.raises(RuntimeError, match="instead of"):
        Task(str(tmp_path), "work", 0, 1)()


def test_a_checkpoint_is_the_same_task_again():
    task = Task("folder", "work", 3, 2)
    assert task.checkpoint().function is task


class Nothing(Record):
    """No arguments."""


def loop(arguments, context):
    """Work until a signal: then save, if this task does."""
    asked = []
    if Path("saves").exists():
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    n = context_done(context)
    while not Path("enough").exists():
        if Path("moves").exists():
            n += 1
            context.report(n, None, "things")
        if Path("starts_anew").exists():
            context.report(1, None, "things")
        Path("working").touch()
        if asked and not Path("stuck").exists():
            Path("saved").touch()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise TaskStoppedError("Saved.")
    return {}


def context_done(context):
    attempts = read_attempts(Path("job/tasks"), context.step, context.rank)
    return max((state.done or 0 for state in attempts), default=0)


LOOP = Kind(Nothing, loop)


@pytest.fixture
def slurm_task(tmp_path, monkeypatch):
    """A task's process as under SLURM; submitit's handler notes that it was requeued, and leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kinds, "KINDS", {"loop": f"{__name__}:LOOP"})
    monkeypatch.setattr(run_task, "REPORT_SECONDS", 0)
    folder = JobFolder(tmp_path / "job")
    for path in (folder.path, folder.tasks, folder.logs):
        path.mkdir()
    request = JobRequest(
        id="try-000000000000",
        kind="try",
        subject="x",
        request={},
        executor="slurm",
        cwd=str(tmp_path),
        created=0.0,
        version="1",
    )
    (folder.path / "request.json").write_text(request.model_dump_json())
    (folder.path / "graph.json").write_text(Graph(steps=(Step(name="work", kind="loop"),)).model_dump_json())
    folder.submit("slurm", {"work": (0,)})

    def requeue(_number, _frame):
        Path("requeued").touch()
        sys.exit(-1)

    def run():
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGUSR2, requeue)
        run_task.run_task(folder.path, "work", 0, 1)

    def start():
        Path("working").unlink(missing_ok=True)
        process = Fork(run)
        wait_until(lambda: Path("working").exists() or process.poll() is not None)
        return process

    return start


def state():
    return read_states(Path("job/tasks"), "work")[0]


def test_a_warning_lets_a_task_save_before_it_is_requeued(slurm_task):
    Path("saves").touch()
    process = slurm_task()
    process.send_signal(signal.SIGUSR2)
    assert process.wait() != 0
    assert state().status == "requeued"
    assert Path("saved").exists()
    assert Path("requeued").exists()


def test_a_task_with_nothing_to_save_is_requeued_at_once(slurm_task):
    process = slurm_task()
    process.send_signal(signal.SIGUSR2)
    process.wait()
    assert state().status == "requeued"
    assert Path("requeued").exists()


def test_a_task_that_saves_for_too_long_is_requeued_all_the_same(slurm_task, monkeypatch):
    monkeypatch.setenv(run_task.DELAY_VARIABLE, "1")
    monkeypatch.setattr(run_task, "LEAST_SECONDS", 0.05)
    Path("saves").touch()
    Path("stuck").touch()
    process = slurm_task()
    process.send_signal(signal.SIGUSR2)
    process.wait()
    assert state().status == "requeued"
    assert not Path("saved").exists()


def test_sigterm_saves_and_goes_on(slurm_task):
    Path("saves").touch()
    process = slurm_task()
    process.send_signal(signal.SIGTERM)
    wait_until(Path("saved").exists)
    Path("enough").touch()
    assert process.wait() == 0
    assert state().status == "finished"
    assert not Path("requeued").exists()


def test_sigterm_after_a_cancel_saves_and_ends(slurm_task):
    Path("saves").touch()
    process = slurm_task()
    JobFolder(Path("job").absolute()).note_cancelled()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    assert state().status == "stopped"


def test_a_task_that_gets_nowhere_is_given_up(slurm_task):
    for _ in range(run_task.MAX_IDLE):
        Path("requeued").unlink(missing_ok=True)
        process = slurm_task()
        process.send_signal(signal.SIGUSR2)
        process.wait()
    assert not Path("requeued").exists()
    assert state().status == "failed"
    assert "got nowhere" in state().error


def test_a_task_that_gets_on_is_requeued_as_often_as_it_takes(slurm_task):
    Path("moves").touch()
    for _ in range(run_task.MAX_IDLE + 1):
        Path("requeued").unlink(missing_ok=True)
        process = slurm_task()
        wait_until(lambda: state().done is not None and state().done > (state().done_before or 0))
        process.send_signal(signal.SIGUSR2)
        process.wait()
        assert Path("requeued").exists()


def test_a_task_that_begins_anew_every_time_is_given_up(slurm_task):
    Path("starts_anew").touch()
    for _ in range(run_task.MAX_IDLE + 1):
        Path("requeued").unlink(missing_ok=True)
        process = slurm_task()
        process.send_signal(signal.SIGUSR2)
        process.wait()
    assert not Path("requeued").exists()
    assert "got nowhere" in state().error


def test_a_full_disk_is_no_reason_not_to_come_back(slurm_task, monkeypatch):
    def full(file, **changes):
        raise SpdToolsError("No space left.")

    monkeypatch.setattr(run_task.TaskFile, "update", full)
    process = slurm_task()
    process.send_signal(signal.SIGUSR2)
    process.wait()
    assert Path("requeued").exists()


def test_a_cancel_that_came_before_anybody_listened_is_heard(slurm_task, monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr(JobFolder, "is_wanted", lambda *_: next(answers))
    assert slurm_task().wait() == 1
    assert state().status == "stopped"
    assert not Path("working").exists()


def test_a_node_that_sees_an_older_list_of_submissions_works_all_the_same(slurm_task):
    """The file system may show it what was there before the retry that it belongs to."""
    folder = JobFolder(Path("job").absolute())
    assert not folder.is_wanted("work", 0, 0)
    assert folder.is_wanted("work", 0, 2)


def test_a_process_that_was_taken_over_stops_at_its_next_word(slurm_task):
    process = slurm_task()
    TaskFile.begin(Path("job/tasks"), "work", 0, 1)
    Path("moves").touch()
    assert process.wait() == 1
    assert (state().attempt, state().status) == (2, "running")
    assert "taken over" in Path("job/logs/work-00000.log").read_text()


def test_a_task_that_nobody_waits_for_any_more_does_nothing(slurm_task):
    folder = JobFolder(Path("job").absolute())
    folder.submit("slurm", {"work": (0,)})
    assert slurm_task().wait() == 1
    assert read_states(folder.tasks, "work") == {}
    assert "Nobody waits" in folder.log("work", 0).read_text()
