"""One experiment at a time, with progress and a limit for those who wait."""

import threading
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from mcp_server.model import KEPT_LOADED, Models
from spd_tools.errors import SpdToolsError


class Listener:
    """A caller's context: keeps the messages, and lets the test wait for one."""

    def __init__(self):
        self.messages = []
        self.told = anyio.Event()

    async def report_progress(self, progress, total=None, message=None):
        self.messages.append(message)
        self.told.set()


class Gone(Listener):
    async def report_progress(self, progress, total=None, message=None):
        self.told.set()
        raise anyio.BrokenResourceError


def harvest(name="one"):
    return SimpleNamespace(folder=Path(name))


def test_returns_what_the_function_returns():
    async def main():
        return await Models().use(Listener(), harvest(), "nothing", lambda found: found.harvest.folder.name)

    assert anyio.run(main) == "one"


def test_errors_come_out_as_they_are():
    def fail(_):
        raise SpdToolsError("It failed.")

    async def main():
        models = Models()
        with pytest.raises(SpdToolsError, match="It failed"):
            await models.use(Listener(), harvest(), "failing", fail)
        return await models.use(Listener(), harvest(), "next", lambda _: "free again")

    assert anyio.run(main) == "free again"


def test_one_at_a_time():
    running = []

    def work(_):
        running.append(1)
        assert len(running) == 1
        running.pop()

    async def main():
        models = Models()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(models.use, Listener(), harvest(), "work", work)

    anyio.run(main)


def test_who_waits_is_told_what_for_and_who_runs_that_it_runs():
    release = threading.Event()

    async def main():
        models = Models(progress_seconds=0.001)
        first, second = Listener(), Listener()
        async with anyio.create_task_group() as group:
            group.start_soon(models.use, first, harvest(), "the first", lambda _: release.wait(60))
            await first.told.wait()
            group.start_soon(models.use, second, harvest(), "the second", lambda _: None)
            await second.told.wait()
            release.set()
        return first.messages[0], second.messages[0]

    first, second = anyio.run(main)
    assert first.startswith("the first is running")
    assert second.startswith("the model is busy with the first")


def test_waiting_has_a_limit_which_does_not_disturb_who_runs():
    release = threading.Event()

    async def main():
        models = Models(wait_seconds=0.01, progress_seconds=0.001)
        first, finished = Listener(), []

        async def run_first():
            finished.append(await models.use(first, harvest(), "the first", lambda _: release.wait(60)))

        async with anyio.create_task_group() as group:
            group.start_soon(run_first)
            await first.told.wait()
            with pytest.raises(SpdToolsError, match="busy with the first"):
                await models.use(Listener(), harvest(), "the second", lambda _: None)
            release.set()
        return finished

    assert anyio.run(main) == [True]


def test_a_client_that_gives_up_keeps_the_model_until_its_experiment_is_over():
    release, over = threading.Event(), []

    def experiment(_):
        release.wait(60)
        over.append("experiment")

    async def main():
        models = Models(progress_seconds=0.001)
        first, second = Listener(), Listener()
        async with anyio.create_task_group() as group:
            given_up = anyio.CancelScope()

            async def give_up():
                with given_up:
                    await models.use(first, harvest(), "the first", experiment)

            group.start_soon(give_up)
            await first.told.wait()
            given_up.cancel()
            group.start_soon(models.use, second, harvest(), "the second", lambda _: over.append("second"))
            await second.told.wait()
            assert over == []
            release.set()

    anyio.run(main)
    assert over == ["experiment", "second"]


def test_a_caller_who_cannot_be_reached_gets_his_answer_all_the_same():
    release = threading.Event()

    async def main():
        models, gone = Models(progress_seconds=0.001), Gone()
        answers = []

        async def run():
            answers.append(await models.use(gone, harvest(), "it", lambda _: release.wait(60)))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await gone.told.wait()
            release.set()
        return answers

    assert anyio.run(main) == [True]


def test_a_loaded_model_is_kept_and_the_least_used_one_goes():
    async def main():
        models = Models()
        harvests = [harvest(str(n)) for n in range(KEPT_LOADED + 1)]

        async def investigation(which):
            return await models.use(Listener(), which, "it", lambda found: found)

        first = await investigation(harvests[0])
        assert await investigation(harvests[0]) is first
        for other in harvests[1:]:
            await investigation(other)
        assert await investigation(harvests[0]) is not first

    anyio.run(main)


def test_a_harvest_that_was_opened_anew_gets_an_investigation_of_its_own():
    async def main():
        models = Models()
        found = [await models.use(Listener(), harvest(), "it", lambda found: found) for _ in range(2)]
        return found[0] is found[1]

    assert not anyio.run(main)
