"""Who may ask at the same time, and who waits."""

from __future__ import annotations

import asyncio
import fcntl
import json

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.llm import alone as module
from spd_tools.llm.alone import alone


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0)


async def in_turn(*asked):
    """Several that ask for works about a run at once: what they did, in order; each is inside for some turns."""
    events = []

    async def ask(number, run_id, works):
        async with alone(run_id, works) as waited:
            events.append((number, "in", waited))
            for _ in range(20):
                await asyncio.sleep(0)
            events.append((number, "out", waited))

    await asyncio.gather(*(ask(number, *one) for number, one in enumerate(asked)))
    return events


def test_who_asks_for_the_same_waits_until_the_other_is_done():
    events = asyncio.run(in_turn(("run", ["labels"]), ("run", ["labels"])))
    assert events == [(0, "in", False), (0, "out", False), (1, "in", True), (1, "out", True)]


@pytest.mark.parametrize("other", [("run", ["scores"]), ("run", []), ("another", ["labels"])])
def test_who_asks_for_something_else_does_not_wait(other):
    events = asyncio.run(in_turn(("run", ["labels"]), other))
    assert [waited for *_, waited in events] == [False] * 4
    assert [what for _, what, _ in events[:2]] == ["in", "in"]


def test_nobody_waits_for_ever_whatever_the_order_of_the_works():
    events = asyncio.run(in_turn(("run", ["a", "b"]), ("run", ["b", "a"]), ("run", ["b"])))
    assert len(events) == 6
    assert events[0] == (0, "in", False)


def test_an_error_lets_the_next_one_in():
    async def fail():
        with pytest.raises(ZeroDivisionError):
            async with alone("run", ["labels"]):
                raise ZeroDivisionError
        async with alone("run", ["labels"]) as waited:
            return waited

    assert asyncio.run(fail()) is False


def test_a_holder_that_says_nothing_or_nonsense_is_named_all_the_same(out_dir, capsys):
    asyncio.run(in_turn(("run", ["labels"])))
    [path] = (out_dir / "annotations").iterdir()
    for said in (b"", b"\x1b[2J", json.dumps({"pid": 1, "host": "\x1b[2J", "since": 0}).encode()):
        path.write_bytes(said)
        with path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

            async def interrupted():
                async with asyncio.timeout(0.01):
                    async with alone("run", ["labels"]):
                        raise AssertionError("another one holds it")

            with pytest.raises(TimeoutError):
                asyncio.run(interrupted())
    printed = capsys.readouterr().err
    assert printed.count("asks for labels about run now; waiting for it") == 3
    assert printed.count("Another process") == 2
    assert "\x1b" not in printed


def test_a_folder_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "file"))
    with pytest.raises(SpdToolsError, match="choose another SPD_OUT_DIR"):
        asyncio.run(in_turn(("run", ["labels"])))
