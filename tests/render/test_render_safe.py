import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from spd_tools.render.safe import visible, visible_token


def test_printable_text_stays():
    assert visible("plain [red]text[/red] ünïcödé 日本 🙂") == "plain [red]text[/red] ünïcödé 日本 🙂"


def test_newline_tab_and_escape_become_glyphs():
    assert visible("a\n\t\x1b[31m\x7f") == "a⏎⇥␛[31m␡"


def test_c1_bidi_zero_width_and_lone_surrogates_become_code_points():
    assert visible("\x9b\u202e\u200b\ud800\u2028") == "<U+009B><U+202E><U+200B><U+D800><U+2028>"


def test_spaces_that_look_like_spaces_are_told_apart():
    assert visible("a\u00a0b\u3000") == "a<U+00A0>b<U+3000>"


def test_a_leading_combining_mark_does_not_change_what_stands_before_it():
    assert visible("\u0301x") == "◌\u0301x"


def test_a_token_shows_its_outer_spaces():
    assert visible_token(" the cat ") == "·the cat·"


def test_a_token_of_spaces_and_one_of_nothing_can_be_seen():
    assert (visible_token("   "), visible_token("")) == ("···", "∅")


@given(st.text(st.characters()))
def test_no_text_steers_a_terminal(text):
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not [char for char in visible(text) if unicodedata.category(char) in hidden]


@given(st.text(st.characters()))
def test_nothing_disappears(text):
    assert len(visible(text)) >= len(text)
