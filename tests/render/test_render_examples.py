import io

from rich.cells import cell_len
from rich.console import Console

from spd_tools.render.examples import ExampleLines, Reading
from spd_tools.store.records import Example
from spd_tools.store.tokentext import TokenText

READING = Reading(
    gating_kind="causal_importance",
    ranking_kind="component_activation",
    threshold=0.0,
    effective_max=2.0,
    spelling=TokenText(None),
)


class Texts(TokenText):
    """Token ids index a list of texts."""

    def __init__(self, texts):
        super().__init__(None)
        self._listed = texts

    def running(self, token_ids, focus):
        return [self._listed[token] for token in token_ids]


def example(texts, firing, importance=None, activation=None, start=3):
    n = len(texts)
    return Example(
        row=0,
        row_id=0,
        position=start + firing,
        start=start,
        firing_index=firing,
        token_ids=list(range(n)),
        token_texts=[None] * n,
        activations={
            "causal_importance": importance or [float(at == firing) for at in range(n)],
            "component_activation": activation or [1.5] * n,
        },
    )


def rendered(texts, firing, width=120, colour=False, **activations) -> list[str]:
    reading = Reading(**{**READING.__dict__, "spelling": Texts(texts)})
    console = Console(
        file=io.StringIO(), width=width, color_system="truecolor" if colour else None, force_terminal=colour
    )
    console.print(ExampleLines([example(texts, firing, **activations)], reading))
    return console.file.getvalue().splitlines()


def test_the_firing_token_is_bracketed_and_its_values_stand_in_front():
    line = rendered(["the", " cat", " sat"], 1)[1]
    assert line.split() == ["1.50", "1.00", "the«", "cat»", "sat"]


def test_other_firing_tokens_are_marked_where_there_is_no_colour():
    line = rendered(["the", " cat", " sat"], 1, importance=[0.2, 1.0, 0.0])[1]
    assert "‹the›« cat» sat" in line


def test_in_colour_a_firing_token_has_a_background_and_no_marks():
    line = rendered(["the", " cat", " sat"], 1, importance=[0.2, 1.0, 0.0], colour=True)[1]
    assert "‹" not in line
    assert "48;2;" in line.partition("the")[0]


def background(activation) -> list[int]:
    """Red, green and blue behind a firing token with that activation; empty for none."""
    escape = rendered(["x"], 0, activation=[activation], colour=True)[1].partition("48;2;")[2]
    return list(map(int, escape.split("m")[0].split(";")[:3])) if escape else []


def test_from_the_core_on_stronger_is_darker():
    core, high, extreme = (sum(background(activation)) for activation in (1.0, 1.6, 2.0))
    assert core > high > extreme


def test_below_the_core_only_the_text_is_coloured():
    assert background(0.4) == []


def test_the_sign_has_its_own_colour():
    red, _, blue = background(2.0)
    other_red, _, other_blue = background(-2.0)
    assert red > blue
    assert other_red < other_blue


def test_the_colours_of_the_signs_are_named_where_both_can_be_seen():
    assert "blue below" in rendered(["x"], 0, activation=[-1.0], colour=True)[0]
    assert "blue" not in rendered(["x"], 0, activation=[1.0], colour=True)[0]
    assert "blue" not in rendered(["x"], 0, activation=[-1.0])[0]


def test_a_token_without_stored_activations_is_plain():
    line = rendered(["a", "b"], 0, importance=[1.0, None], activation=[1.0, None])[1]
    assert line.endswith("«a»b")


def lines_of(*windows, width=60) -> list[str]:
    """Examples of one list, without their header: (texts, firing) each."""
    numbered, examples = [], []
    for texts, firing in windows:
        ids = range(len(numbered), len(numbered) + len(texts))
        examples.append(example(texts, firing).model_copy(update={"token_ids": list(ids)}))
        numbered += texts
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(ExampleLines(examples, Reading(**{**READING.__dict__, "spelling": Texts(numbered)})))
    return console.file.getvalue().splitlines()[1:]


def test_firing_tokens_of_all_examples_stand_in_one_column():
    short, long = lines_of((["a", "b", "c"], 1), (["word"] * 40 + ["b", "c"], 40))
    assert short.index("«") == long.index("«")


def test_no_columns_are_left_empty_before_the_longest_context():
    first, second = lines_of((["ab", "x"], 1), (["a", "x"], 1))
    assert first.endswith("  ab«x»")
    assert second.endswith("   a«x»")


def test_the_context_before_the_firing_token_leaves_room_for_the_one_after_it():
    [line] = lines_of((["left"] * 40 + ["x"] + [" right"] * 40, 40))
    assert len(line) == 60
    assert "left«x» right right" in line


def test_the_start_of_a_row_is_marked():
    assert rendered(["a", "b"], 1, start=0)[1].endswith("│a«b»")
    assert rendered(["a", "b"], 1, start=5)[1].endswith("  a«b»")


def test_neighbours_that_all_fire_share_their_marks():
    line = rendered(["a", "b", "x", "c", "d", "e"], 2, importance=[1.0, 1.0, 1.0, 1.0, 0.0, 1.0])[1]
    assert line.endswith("‹ab›«x»‹c›d‹e›")


def test_lines_are_no_wider_than_there_is_room():
    lines = rendered(["日本"] * 50 + ["x"] + ["語"] * 50, 50, width=50)
    assert len(lines) == 2
    assert cell_len(lines[1]) <= 50


def test_a_firing_token_wider_than_the_room_is_cut():
    lines = rendered(["x" * 500], 0, width=50)
    assert len(lines) == 2
    assert cell_len(lines[1]) <= 50


def test_hostile_tokens_are_made_visible_and_are_no_markup():
    line = rendered(["[red]", "\x1b[31m", "\n"], 1)[1]
    assert line.endswith("[red]«␛[31m»⏎")


def test_long_numbers_do_not_touch():
    line = rendered(["x"], 0, importance=[3.25e-4], activation=[-0.044])[1]
    assert line.split()[:2] == ["-0.0440", "3.25e-04"]
