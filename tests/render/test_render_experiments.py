import io
import re
import unicodedata

import pytest
import torch
from planted_store import KEY, NEGATIVES, PARAMETERS, POSITIVES, make_planted, misses_tools, open_planted
from rich.console import Console
from tokenizers import Tokenizer, models

from spd_tools.experiments import EXPERIMENTS, Subject, make_request, read_result, replay, run
from spd_tools.render.experiments import replay_page, result_page
from spd_tools.store.tokentext import TokenText

HOSTILE = "\x1b[31mred [bold]x[/bold]\u202e\n\x9b"
TEXTS = {
    "candidates",
    "cosines_absent",
    "negatives",
    "near_misses",
    "place",
    "population",
    "positives",
    "reasons",
    "summary",
    "text",
    "texts",
    "token_texts",
}
"""Fields that hold text from data sets, tokenizers and people."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("render")
    make_planted(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Subject(open_planted(folder))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(subject):
    """Experiment -> a result of it."""
    return {
        name: run(subject, make_request(name, {"key": KEY, **parameters})) for name, parameters in PARAMETERS.items()
    }


@pytest.fixture(scope="module")
def tested(subject, results):
    """A generate-and-test with texts on which the label is wrong."""
    given = {"key": KEY, "positives": [*POSITIVES[:3], "the young «cat» falls"], "negatives": NEGATIVES[:3]}
    proposal = run(subject, make_request("generate_and_test", given))
    chosen = [miss.text for miss in proposal.candidates if misses_tools(miss.text)][:3]
    return run(subject, make_request("generate_and_test", {**given, "near_misses": chosen}))


def shown(*renderables, width=120, colour=False):
    console = Console(
        file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False,
        force_terminal=colour, color_system="truecolor" if colour else None,
    )  # fmt: skip
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def words(text):
    return " ".join(text.split())


def hostile_spelling(n):
    """Every token is hostile."""
    vocabulary = {f"{HOSTILE}{number}": number for number in range(n)}
    return TokenText(Tokenizer(models.WordLevel(vocabulary, unk_token=f"{HOSTILE}0")))


def spoilt(value, name=""):
    """A result's JSON with hostile texts in it."""
    if isinstance(value, dict):
        return {inner: spoilt(item, inner) for inner, item in value.items()}
    if isinstance(value, list):
        return [spoilt(item, name) for item in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) and name in TEXTS else value


# --- every result -----------------------------------------------------------------------------------------------------


def test_every_experiment_is_shown_here(results):
    assert results.keys() == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_says_what_kind_of_answer_it_is_about_what_and_from_how_many(results, tested, subject, name):
    result = tested if name == "generate_and_test" else results[name]  # a proposal is no evidence
    page = words(shown(*result_page(result, subject.harvest)))
    assert page.startswith(f"{KEY} {name.replace('_', ' ')} {result.id} planted,")
    assert f"{result.kind} (" in page
    assert words(f"; {result.population}; n = {result.n:,}") in page
    assert words(result.summary) in page


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_effect_and_control_are_there_where_the_result_has_them(results, subject, name):
    result = results[name]
    page = shown(*result_page(result, subject.harvest))
    for what, estimate in (("effect", result.effect), ("control", result.control)):
        assert bool(re.search(rf"^{what} +\S", page, re.MULTILINE)) == (estimate is not None)
    assert ("the intervals are apart" in page, "the intervals overlap" in page) == (
        result.excludes_control is True,
        result.excludes_control is False,
    )


@pytest.mark.parametrize("width", [60, 100, 180])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_fits_its_terminal(results, subject, name, width):
    page = shown(*result_page(results[name], subject.harvest), width=width)
    assert max(map(len, page.splitlines())) <= width


@pytest.mark.parametrize("name", [*EXPERIMENTS, "tested"])
def test_hostile_texts_are_inert(results, tested, subject, monkeypatch, name):
    result = tested if name == "tested" else results[name]
    vocab_size = subject.harvest.manifest.decomposition.vocab_size
    monkeypatch.setitem(subject.harvest.__dict__, "token_texts", hostile_spelling(vocab_size))
    page = shown(*result_page(read_result(spoilt(result.model_dump(mode="json"))), subject.harvest))
    assert {char for char in page if unicodedata.category(char) in {"Cc", "Cf"}} <= {"\n"}
    assert "␛[31mred [bold]x[/bold]" in page


def test_a_replay_says_how_it_came_out(results, subject):
    again = replay(subject, results["sweep"])
    assert "equal to the bit; it holds" in shown(*replay_page(again, subject.harvest))
    worse = again.model_copy(
        update={"identical": False, "holds": False, "same_machine": False, "largest_difference": 0.25}
    )
    page = words(shown(*replay_page(worse, subject.harvest)))
    assert "another device or other versions: largest difference 0.250; it does not hold" in page


# --- some of them -----------------------------------------------------------------------------------------------------


def test_a_probe_marks_what_fires_and_how_strongly(results, subject):
    page = shown(*result_page(results["probe"], subject.harvest))
    assert "the‹ needle› and the‹ saw› sings" in page
    assert "fires on needle 10.0, saw 1.00" in page
    assert "does not fire; largest activation: cat 0.125" in page


def test_on_a_terminal_strength_is_a_colour(results, subject):
    page = shown(*result_page(results["probe"], subject.harvest), colour=True)
    assert "‹" not in page
    assert re.search(r"\x1b\[[^m]*m needle\x1b\[0m", page)


def test_a_proposal_shows_candidates_and_no_score(results, subject):
    result = results["generate_and_test"]
    page = shown(*result_page(result, subject.harvest))
    assert all(candidate.text in page for candidate in result.candidates)
    assert "as the label says" not in page
    assert result.id not in page
    assert result.kind not in page


def test_texts_on_which_the_label_is_wrong_come_first(tested, subject):
    page = shown(*result_page(tested, subject.harvest))
    assert page.index("the young «cat» falls") < page.index(POSITIVES[0])
    assert re.search(r"✗ +positive +no +0.125 +the young «cat» falls", page)
    assert re.search(r"positives +3 of 4 ", page)


def test_needed_tokens_of_a_context_are_marked(results, subject):
    page = shown(*result_page(results["minimal_context"], subject.harvest))
    assert re.search(r"row:\d+:\d+ .*‹ \w+›", page)


def test_what_was_not_computed_is_not_zero(results, subject):
    data = results["cofiring"].model_dump(mode="json")
    absent = {"correlation": None, "read_cosine": None, "write_cosine": None, "cosines_absent": "the weights are gone"}
    page = shown(*result_page(read_result(data | absent), subject.harvest))
    assert re.search(r"^correlation +– of", page, re.MULTILINE)
    assert re.search(r"^cosine +the weights are gone", page, re.MULTILINE)


@pytest.mark.parametrize("name", ["sweep", "interact", "ablate", "triage"])
def test_a_page_says_how_like_the_controls_are(results, subject, name):
    result = results[name]
    like = f"controls {result.matching.low:.2g} to {result.matching.high:.2g} times as frequent"
    assert like in words(shown(*result_page(result, subject.harvest)))
    without = result.model_copy(update={"matching": None})
    assert "times as frequent" not in words(shown(*result_page(without, subject.harvest)))


def test_a_huge_token_does_not_make_a_huge_page(results, subject, monkeypatch):
    result = results["sweep"]
    vocabulary = {f"{'x' * 1_000_000}{token.token_id}": token.token_id for token in result.tokens}
    spelling = TokenText(Tokenizer(models.WordLevel(vocabulary, unk_token="?")))
    monkeypatch.setitem(subject.harvest.__dict__, "token_texts", spelling)
    assert len(shown(*result_page(result, subject.harvest))) < 10_000
