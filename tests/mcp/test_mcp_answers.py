import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError

from mcp_server.answers import (
    CLOSE,
    MAX_CHARACTERS,
    OPEN,
    capped,
    expected_failures,
    inert,
    quoted,
    quoted_run,
    quoted_token,
    shown_range,
    table,
)
from mcp_server.experiment_pages import verbatim
from spd_tools.errors import SpdToolsError

HOSTILE = st.text(st.characters() | st.sampled_from(f'{OPEN}{CLOSE}\x1b\n\u202e\u200b|\\"'), max_size=80)


@given(HOSTILE)
def test_quoted_text_cannot_leave_its_marks_or_steer_a_terminal(text):
    for shown in (quoted(text), quoted_token(text), quoted_run(text), quoted_run([text, text])):
        assert shown[0] == OPEN
        inside, close, after = shown[1:].partition(CLOSE)
        assert close
        assert OPEN not in inside
        assert CLOSE not in after
        assert shown.isprintable()


@given(HOSTILE)
def test_inert_text_is_one_printable_line_without_marks(text):
    shown = inert(text, 40)
    assert shown.isprintable()
    assert not {OPEN, CLOSE} & set(shown)
    assert len(text) <= 40 or f"({len(text) - 40:,} characters more)" in shown


@given(HOSTILE)
def test_a_text_to_hand_back_is_inert_and_comes_back_as_it_was(text):
    shown = verbatim(text)
    assert shown.isprintable()
    assert (shown.count(OPEN), shown.count(CLOSE)) == (1, 1)
    assert json.loads(shown[1:-1]) == text


def test_a_megabyte_is_cut_and_says_so():
    assert len(quoted("x" * 1_000_000)) < 500
    assert len(quoted_run(["x" * 1_000_000, "y"])) < 60
    assert len(quoted_run(["xy"] * 1_000_000)) < 2_000
    assert "999,952 characters more" in quoted_token("x" * 1_000_000)


def test_an_answer_is_capped_between_lines_and_says_how_to_get_the_rest():
    answer = "\n".join(f"line {n} {quoted('text')}" for n in range(5_000))
    cut = capped(answer, "Ask for less.")
    assert len(cut) <= MAX_CHARACTERS
    kept, _, remark = cut.rpartition("\n\n")
    assert answer.startswith(kept)
    assert kept.endswith(CLOSE)
    assert "Ask for less." in remark


def test_a_cut_inside_a_quotation_closes_it():
    cut = capped(OPEN + "x" * 2 * MAX_CHARACTERS + CLOSE, "Ask for less.")
    assert cut.count(OPEN) == cut.count(CLOSE) == 1


def test_a_short_answer_is_left_alone():
    assert capped("short", "Ask for less.") == "short"


def test_cells_cannot_add_columns():
    assert table(["a"], [["x | y"]]).splitlines()[-1] == "| x \\| y |"


def test_a_range_names_the_next_offset_only_where_there_is_more():
    assert shown_range(0, 20, 50, "tokens") == "Tokens 1 to 20 of 50. The next: offset=20."
    assert shown_range(40, 10, 50, "tokens") == "Tokens 41 to 50 of 50."
    assert "there are 50" in shown_range(60, 0, 50, "tokens")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SpdToolsError("The thing is wrong; mend it.\x1b[31m"), "The thing is wrong; mend it.␛[31m"),
        (FileNotFoundError(2, "No such file", "x.json"), "x.json: No such file."),
        (MemoryError(), "There is not enough memory for this; ask for fewer texts, bases or tokens."),
    ],
)
def test_expected_failures_reach_the_caller(error, said):
    with pytest.raises(ToolError) as caught, expected_failures():
        raise error
    assert str(caught.value) == said


def test_bugs_do_not():
    with pytest.raises(RuntimeError), expected_failures():
        raise RuntimeError("a bug")
