"""Fewer requests while the server asks for it, more when it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from llm.asking import PATIENT, calls
from llm.stand_in import Refuse, Say

from spd_tools.llm.limits import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def headers(name: str, limit: int, remaining: int, seconds: float) -> dict[str, str]:
    date = datetime(2026, 1, 1, tzinfo=UTC)  # by the server's clock, which is not ours
    reset = (date + timedelta(seconds=seconds)).isoformat()
    said = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
    fields = {f"anthropic-ratelimit-{name}-{what}": value for what, value in said.items()}
    return fields | {"date": date.strftime("%a, %d %b %Y %H:%M:%S GMT")}


def test_no_more_than_the_limit_start(clock):
    pace = Pace(3, clock)
    slots = [pace.start(10) for _ in range(3)]
    assert pace.wait(10) is None
    pace.end(slots[0])
    assert pace.wait(10) == 0


def test_one_refusal_lowers_the_limit_and_the_others_of_its_round_do_not(clock):
    pace = Pace(100, clock)
    slots = [pace.start(10) for _ in range(100)]
    for slot in slots:
        pace.refused(slot, {}, None)
        pace.end(slot)
    assert pace.limit == pytest.approx(70)


def test_replies_raise_the_limit_by_one_per_round_up_to_the_maximum(clock):
    pace = Pace(20, clock)
    pace.limit = 10.0
    for _ in range(10):
        slot = pace.start(1)
        pace.succeeded(slot, {})
        pace.end(slot)
    assert pace.limit == pytest.approx(11, abs=0.1)
    for _ in range(1000):
        slot = pace.start(1)
        pace.succeeded(slot, {})
        pace.end(slot)
    assert pace.limit == 20


def test_nothing_starts_before_the_server_s_pause_is_over(clock):
    pace = Pace(10, clock)
    slot = pace.start(1)
    pace.refused(slot, {}, 7.0)
    pace.end(slot)
    assert pace.wait(1) == pytest.approx(7)
    clock.now += 7
    assert pace.wait(1) == 0


@pytest.mark.parametrize(("name", "need"), [("requests", 1), ("input-tokens", 500), ("tokens", 500)])
def test_an_empty_bucket_is_waited_for_as_long_as_it_takes_to_fill(clock, name, need):
    """1,000 in 60 s: what is needed is there after need / 1,000 of a minute."""
    pace = Pace(10, clock)
    slot, _other = pace.start(500), pace.start(500)
    pace.end(_other)
    running = pace.start(0)
    pace.succeeded(running, headers(name, 1000, 0, 60))
    assert pace.wait(500) == pytest.approx(60 * need / 1000)
    clock.now += 60 * need / 1000
    assert pace.wait(500) == 0
    pace.end(slot)


def test_what_the_server_had_not_seen_yet_is_taken_off(clock):
    pace = Pace(10, clock)
    first = pace.start(0)
    for _ in range(3):
        pace.start(0)
    pace.succeeded(first, headers("requests", 100, 4, 60))
    assert pace.wait(0) == 0
    pace.start(0)
    assert pace.wait(0) == pytest.approx(60 / 96, rel=0.01)


def test_an_empty_pipeline_may_always_ask(clock):
    pace = Pace(10, clock)
    slot = pace.start(0)
    pace.succeeded(slot, headers("requests", 100, 0, 60))
    pace.end(slot)
    assert pace.wait(0) == 0


@pytest.mark.parametrize("broken", [{"limit": "many"}, {"reset": "soon"}, {"reset": "2026-01-01T00:00:00"}])
def test_headers_that_make_no_sense_are_ignored(clock, broken):
    pace = Pace(10, clock)
    slot = pace.start(0)
    said = headers("requests", 100, 0, 60)
    pace.succeeded(slot, said | {f"anthropic-ratelimit-requests-{what}": value for what, value in broken.items()})
    assert pace.wait(0) == 0


def test_a_server_that_allows_less_at_once_is_found_out(serve, answer, good):
    api = serve(Say(good.said, seconds=0.01), at_once=3)
    outcomes = answer(calls(30), max_concurrent=12, retries=PATIENT)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Answer"] * 30
    assert api.most_under_way <= 3


def test_more_than_allowed_are_never_under_way(serve, answer, good):
    api = serve(Say(good.said, seconds=0.005))
    answer(calls(40), max_concurrent=5)
    assert api.most_under_way == 5


def test_a_request_limit_is_kept_without_a_refusal(serve, answer, good):
    """A bucket of 5 requests that fills up at 100 per second; headers say how full it is."""
    bucket = Bucket(5, 100.0)
    serve(bucket.rule(good))
    outcomes = answer(calls(40), max_concurrent=2)
    assert len(outcomes) == 40
    assert bucket.refused <= 3


class Bucket:
    def __init__(self, capacity: int, rate: float) -> None:
        self.capacity, self.rate, self.level = capacity, rate, float(capacity)
        self.at = datetime.now(UTC)
        self.refused = 0

    def rule(self, good: Say):
        def answer(asked):
            now = datetime.now(UTC)
            self.level = min(self.capacity, self.level + self.rate * (now - self.at).total_seconds())
            self.at = now
            if self.level < 1:
                self.refused += 1
                return Refuse(429, headers={"retry-after-ms": "10"})
            self.level -= 1
            reset = now + timedelta(seconds=(self.capacity - self.level) / self.rate)
            said = {"limit": self.capacity, "remaining": int(self.level), "reset": reset.isoformat()}
            fields = {f"anthropic-ratelimit-requests-{what}": str(value) for what, value in said.items()}
            return Say(good.said, headers=fields)

        return answer
