import pytest
from interpreting import TOOLS

from spd_tools.annotations import LabelDraft
from spd_tools.errors import SpdToolsError
from spd_tools.interpret.provenance import Provenance
from spd_tools.interpret.selection import Earlier, choose
from spd_tools.interpret.top_tokens import AUTHOR, top_tokens_label
from spd_tools.keys import ComponentKey

KEY = ComponentKey.parse(TOOLS)


def chosen_keys(harvest, **how):
    return [str(harvest.keys.key(flat)) for flat in choose(harvest, **how).tolist()]


def test_the_densest_come_first(harvest):
    counts = harvest.firing_counts[choose(harvest)]
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)


def test_those_that_never_fired_are_left_out(harvest):
    assert len(choose(harvest)) == (harvest.firing_counts > 0).sum() < len(harvest.keys)


def test_layer_by_layer(harvest):
    found = choose(harvest, order="index").tolist()
    assert found == sorted(found)


def test_a_pattern_chooses_layers(harvest):
    keys = chosen_keys(harvest, layer="h.0.*")
    assert {key.partition(":")[0] for key in keys} == {"h.0.attn.o_proj", "h.0.mlp.down_proj"}


def test_given_keys_keep_their_order_and_come_once(harvest):
    given = [TOOLS, "h.0.attn.o_proj:0", TOOLS]
    assert chosen_keys(harvest, keys=given) == given[:2]


def test_the_limit_is_of_the_whole_order(harvest):
    assert chosen_keys(harvest, limit=3) == chosen_keys(harvest)[:3]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"keys": ["h.0.mlp.down_proj:99"]}, "no component"),
        ({"layer": "h.7.*"}, "no layer"),
        ({"limit": 0}, "at least 1"),
        ({"order": "size"}, "order of components"),
    ],
)
def test_what_there_is_not_is_refused(harvest, how, said):
    with pytest.raises(SpdToolsError, match=said):
        choose(harvest, **how)


# --- what is said already ---------------------------------------------------------------------------------------------


def machine_label(asked, prompt, label):
    origin = Provenance(asked=asked, prompt=prompt, harvest_id="h", call="c", label=label, verdict="clear")
    return LabelDraft(input_view=f"long words about {label}", notes=origin.notes("because"))


def test_a_person_s_label_is_shown_to_the_model(notes):
    notes.set_label(KEY, LabelDraft(input_view="tools"), author="ann")
    assert Earlier(notes, "m", "detects").label_of(KEY) == "tools"


def test_another_labeller_s_label_is_shown_in_short(notes):
    notes.set_label(KEY, machine_label("other", "detects", "tools"), author="other")
    assert Earlier(notes, "m", "detects").label_of(KEY) == "tools"
    assert Earlier(notes, "other", "roles").label_of(KEY) == "tools"


def test_what_the_labeller_said_itself_does_not_change_its_questions(notes):
    notes.set_label(KEY, LabelDraft(input_view="tools"), author="ann")
    notes.set_label(KEY, machine_label("m", "detects", "hammers"), author="m-20261001")
    assert Earlier(notes, "m", "detects").label_of(KEY) == "tools"


def test_top_tokens_are_no_label_to_show(harvest, notes):
    draft = top_tokens_label(harvest, KEY)
    assert draft is not None
    notes.set_label(KEY, draft, author=AUTHOR)
    assert Earlier(notes, "m", "detects").label_of(KEY) is None


@pytest.mark.parametrize("how", [{"wants": "rejected"}, {"category": "unclear"}])
def test_a_label_that_says_nothing_is_not_shown(notes, how):
    notes.set_label(KEY, LabelDraft(input_view="tools", **how), author="ann")
    assert Earlier(notes, "m", "detects").label_of(KEY) is None
