"""Processes of a job as forks of the test's: everything but the start of Python is real, and takes milliseconds."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import submitit

from spd_tools.launch import control, scheduler
from spd_tools.launch.status import ACTIVE, job_status

DEADLINE = 60.0
"""Seconds after which something is broken; nothing here takes nearly as long."""


class Fork:
    """A function in a process of its own."""

    def __init__(self, function):
        self.pid = os.fork()
        self.code = None
        if self.pid:
            return
        code = 70
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            code = function() or 0
        except SystemExit as leaving:
            code = leaving.code
        finally:
            os._exit(code)

    def poll(self):
        """Its exit code; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self):
        wait_until(lambda: self.poll() is not None)
        return self.code


class ForkedExecutor:
    """In place of submitit's."""

    def __init__(self, folder, cluster, **options):
        assert cluster == "local"

    def update_parameters(self, **parameters):
        assert parameters["timeout_min"] > 1e6

    def submit(self, task):
        def run():
            close_locks()
            return task()

        return ForkedJob(Fork(run))


class ForkedJob:
    """In place of submitit's."""

    def __init__(self, process):
        self._process = process

    def done(self):
        return self._process.poll() is not None


class Schedulers:
    """In place of subprocess: the schedulers that were started."""

    DEVNULL = None

    def __init__(self):
        self.started = []

    def Popen(self, command, *, env, pass_fds, start_new_session, **streams):
        assert start_new_session
        folder, number = command[-2:]

        def run():
            close_locks(pass_fds)
            os.environ.clear()
            os.environ.update(env)
            scheduler.sys.argv = ["scheduler", folder, number]
            return scheduler.main()

        self.started.append(Fork(run))
        return Waiting()


class Waiting:
    """The started process as ``control`` sees it; the test itself reaps it."""

    def wait(self):
        return 0


def close_locks(kept=()):
    """What a new program would not inherit."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.endswith(("/lock", ".lock")) and int(entry.name) not in kept:
            os.close(int(entry.name))


def use_forks(monkeypatch):
    """Start no program; returns the schedulers."""
    schedulers = Schedulers()
    monkeypatch.setattr(control, "subprocess", schedulers)
    monkeypatch.setattr(submitit, "AutoExecutor", ForkedExecutor)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.005)
    return schedulers


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def ended(job):
    """The job, when nothing of it goes on any more."""
    wait_until(lambda: job_status(job.id).status not in ACTIVE)
    return job_status(job.id)
