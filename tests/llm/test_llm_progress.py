"""What is shown while calls are answered."""

from __future__ import annotations

import asyncio

from llm.asking import ask, calls
from llm.stand_in import Say

from spd_tools.llm import CallBar, Tally
from spd_tools.llm.progress import state_line


class Watching:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []

    def show(self, tally: Tally) -> None:
        self.seen.append((tally.done, tally.failed, tally.dollars))


def test_every_outcome_is_counted(serve, ledger, good):
    serve(lambda asked: good if asked.prompt != "Question 2" else Say("{"))
    watching = Watching()
    asyncio.run(ask(ledger, calls(5), progress=watching))
    assert [done for done, _, _ in watching.seen] == [1, 2, 3, 4, 5]
    _, failed, dollars = watching.seen[-1]
    assert failed == 1
    assert abs(dollars - ledger.spending().dollars) < 1e-12


def test_the_state_names_dollars_failures_and_the_rest():
    tally = Tally(answered=1, from_ledger=2, failed=3, not_sent=4, dollars=0.1234, note="waiting")
    assert state_line(tally) == "$0.1234, 3 failed, 2 known before, 4 not sent, waiting"


def test_the_bar_is_on_stderr_and_reads_no_markup(capfd):
    with CallBar("[bold]labels", total=3) as bar:
        bar.show(Tally(answered=2, note="[red]x"))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "[bold]labels" in shown.err
    assert "[red]x" in shown.err
