import io
import sys

import pytest

from spd_tools.tokens import prepare_tokens, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, in a list of one."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def stderr_is(monkeypatch):
    """To be called in the test itself: pytest puts its own stderr back between set-up and test."""

    def replace(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return replace


def shown(clock, seconds):
    with progress.TokenisingProgress() as bar:
        clock[0] = seconds
        bar.advance(3000, 0.5)


def test_short_work_shows_nothing(clock, stderr_is):
    terminal = stderr_is(Terminal())
    shown(clock, 1.9)
    assert terminal.getvalue() == ""


def test_long_work_shows_tokens_and_their_rate(clock, stderr_is):
    terminal = stderr_is(Terminal())
    shown(clock, 3.0)
    assert "Tokenising" in terminal.getvalue()
    assert "3,000 tokens, 1,000/s" in terminal.getvalue()


def test_where_stderr_is_no_terminal_nothing_is_shown(clock, stderr_is):
    stream = stderr_is(io.StringIO())
    shown(clock, 3.0)
    assert stream.getvalue() == ""


def test_the_cursor_comes_back_when_the_work_fails(clock, stderr_is):
    terminal = stderr_is(Terminal())

    def fail():
        with progress.TokenisingProgress() as bar:
            clock[0] = 3.0
            bar.advance(1, None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().rindex(show) > terminal.getvalue().index(hide)


def test_tokenising_reports_its_tokens(config, tmp_path, monkeypatch):
    advances = []
    monkeypatch.setattr(progress.TokenisingProgress, "advance", lambda self, n, done: advances.append((n, done)))
    (tmp_path / "a.txt").write_text("a b c")
    prepare_tokens(config(tmp_path / "a.txt"))
    assert advances == [(3, 1.0)]


def test_waiting_is_said_on_a_terminal(stderr_is):
    terminal = stderr_is(Terminal())
    with progress.waiting("Waiting for Godot"):
        pass
    assert "Waiting for Godot" in terminal.getvalue()
