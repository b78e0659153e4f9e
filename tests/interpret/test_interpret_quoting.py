from hypothesis import given
from hypothesis import strategies as st

from spd_tools.interpret.quoting import TOKEN_LIMIT, excerpt, quoted, quoted_token

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXT)
def test_a_quoted_text_stays_on_its_line_and_opens_no_tag_and_no_mark(text):
    shown = quoted(text, limit=1000)
    assert shown.isprintable()
    assert not set("<«»…") & set(shown)


@given(TEXT)
def test_nothing_is_lost(text):
    assert quoted(text, limit=1000).encode("latin-1", "backslashreplace").decode("unicode_escape") == text


@given(TEXT, st.integers(1, 60))
def test_a_quoted_text_is_no_longer_than_its_limit(text, limit):
    assert len(quoted(text, limit)) <= limit + 1


def test_what_hides_is_named():
    assert quoted("a\u200b\u202e\U000e0041\ufe0f\u00a0b") == "a\\u200b\\u202e\\U000e0041\\ufe0f\\xa0b"


def test_a_token_shows_its_spaces_and_its_quotation_marks():
    assert quoted_token(' "a"') == '" \\"a\\""'


def test_a_huge_token_is_cut():
    assert quoted("x" * 10**6) == "x" * TOKEN_LIMIT + "…"


def test_marked_tokens_stand_between_marks():
    shown = excerpt(["a", " b", " c", " d"], {1, 3}, 1, limit=100, begins=True)
    assert shown == "a« b» c« d»"


def test_what_is_farthest_from_the_focus_is_left_out():
    words = [f" {letter}" for letter in "abcdefghi"]
    assert excerpt(words, {4}, 4, limit=12, begins=True) == "… c d« e» f g…"


def test_the_focus_is_shown_whatever_its_length():
    assert excerpt(["a", "b" * 30, "c"], {1}, 1, limit=5, begins=True) == "…«" + "b" * 30 + "»…"


def test_a_text_that_began_earlier_says_so():
    assert excerpt(["a", "b"], {0}, 0, limit=50, begins=False) == "…«a»b"


@given(st.lists(TEXT, min_size=1, max_size=8), st.data())
def test_marks_are_always_ours(texts, data):
    marks = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    shown = excerpt(texts, marks, 0, limit=10**6, begins=True)
    assert shown.count("«") == shown.count("»") == len(marks)
    assert shown.isprintable()
