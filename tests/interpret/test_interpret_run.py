import asyncio
import json

import pytest
from interpreting import SERVED, TOOLS, answer, asked_key, honest, labelled, rules
from llm.stand_in import Drop, Refuse, Say

from spd_tools.annotations import Annotations, LabelDraft
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.origins import Origins
from spd_tools.evaluate.splits import Split
from spd_tools.interpret import (
    InterpretRequest,
    estimate_interpretation,
    interpret,
    label_by_top_tokens,
    plan,
    provenance_of,
    results_path,
    run_interpretation,
)
from spd_tools.interpret.labeller import MAX_TOKENS
from spd_tools.interpret.results import ResultsFile
from spd_tools.interpret.selection import choose
from spd_tools.llm import LanguageModel, Ledger

OTHER = "h.0.mlp.down_proj:0"
PAIR = [TOOLS, OTHER]


def results(harvest):
    return [json.loads(line) for line in results_path(harvest.run_id).read_text().splitlines()]


def ledger_of(harvest):
    return Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)


def test_every_component_that_fired_is_labelled(harvest, notes, serve):
    api = serve()
    report = labelled(harvest)
    alive = int((harvest.firing_counts > 0).sum())
    assert (report.n_chosen, report.n_labelled, report.failures) == (alive, alive, [])
    assert sorted(map(asked_key, api.asked)) == sorted(str(label.key) for label in notes.labels())
    for label in notes.labels():
        rule = rules()[str(label.key)]
        assert rule.kind == "random" or label.input_view == rule.description
        assert (label.author, label.status) == (SERVED, "draft")


def test_a_label_says_where_it_came_from(harvest, notes, serve):
    serve()
    labelled(harvest, keys=[TOOLS], prompt="roles")
    label = notes.label(TOOLS)
    origin = provenance_of(label)
    assert origin is not None
    assert (origin.asked, origin.prompt, origin.harvest_id) == ("claude-haiku-5-5", "roles", harvest.harvest_id)
    assert [call.hash for call in ledger_of(harvest).calls()] == [origin.call]
    assert origin.evidence == "texts: labelling split; token and co-firing statistics: all rows"
    assert label.notes.startswith("All marked tokens are tools.")
    assert (label.confidence, label.category) == (0.9, "")
    assert Origins(harvest, notes, ledger_of(harvest)).of(label).blind


def test_unclear_is_a_good_answer(harvest, notes, serve):
    serve()
    random = next(key for key, rule in rules().items() if rule.kind == "random")
    report = labelled(harvest, keys=[random])
    assert (report.n_labelled, report.n_unclear) == (1, 1)
    assert notes.label(random).category == "unclear"
    assert results(harvest)[0]["verdict"] == "unclear"


def test_the_request_is_small_and_careful(harvest, serve):
    api = serve()
    labelled(harvest, keys=[TOOLS])
    body = api.asked[0].body
    assert body["max_tokens"] == MAX_TOKENS
    assert body["output_config"]["effort"] == "low"
    order = list(body["output_config"]["format"]["schema"]["properties"])
    assert order.index("reasoning") < order.index("label") < order.index("confidence")


BAD = {
    "refusal": Say("", stop_reason="refusal"),
    "truncated": Say('{"reasoning": "All', stop_reason="max_tokens"),
    "malformed": Say("tools"),
    "missing field": Say({"label": "tools"}),
    "too sure": Say(answer(confidence=1.5)),
    "blank label": Say(answer(label="  ")),
    "blank input view": Say(answer(input_view="")),
    "unknown verdict": Say(answer(verdict="good")),
    "endless": Say(answer(input_view="x" * 3000)),
    "refused": Refuse(400, "no"),
    "dropped": Drop(),
}


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD)
def test_a_failure_is_listed_and_no_label(harvest, notes, serve, reply):
    serve(lambda asked: reply if asked_key(asked) == TOOLS else honest(asked))
    report = labelled(harvest, keys=PAIR)
    assert [(str(failure.key), bool(failure.reason)) for failure in report.failures] == [(TOOLS, True)]
    assert report.n_labelled == 1
    assert notes.label(TOOLS) is None
    assert [row["component_key"] for row in results(harvest)] == [OTHER]
    assert report.dollars + report.unknown_dollars == pytest.approx(
        sum(call.dollars + call.unknown_dollars for call in ledger_of(harvest).calls())
    )


def test_a_failed_component_is_asked_about_again(harvest, notes, serve):
    serve(lambda asked: honest(asked) if asked.times else Say("{"))
    assert labelled(harvest, keys=PAIR).n_labelled == 0
    assert labelled(harvest, keys=PAIR).n_labelled == 2


# --- paid once --------------------------------------------------------------------------------------------------------


def test_labelled_components_are_not_asked_about_again(harvest, notes, serve):
    api = serve()
    labelled(harvest, limit=5)
    again = labelled(harvest, limit=7)
    assert (again.n_known, again.n_labelled, len(api.asked)) == (5, 2, 7)
    assert len(results(harvest)) == 7


def test_a_repeated_run_needs_no_key(harvest, serve, monkeypatch):
    serve()
    labelled(harvest, limit=3)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    report = run_interpretation(harvest, InterpretRequest(limit=3), progress=False)
    assert (report.n_known, report.n_labelled) == (3, 0)


def test_another_model_or_prompt_is_another_labeller(harvest, notes, serve):
    api = serve()
    labelled(harvest, keys=[TOOLS])
    labelled(harvest, keys=[TOOLS], prompt="roles")
    labelled(harvest, keys=[TOOLS], model="claude-sonnet-5-5")
    assert (len(api.asked), len(notes.label_history(TOOLS))) == (3, 3)


def test_again_pays_nothing_where_the_evidence_is_the_same(harvest, notes, serve):
    api = serve()
    labelled(harvest, keys=[TOOLS])
    report = labelled(harvest, keys=[TOOLS], again=True)
    assert (report.n_labelled, report.n_from_ledger, report.dollars, len(api.asked)) == (1, 1, 0.0, 1)
    assert (len(notes.label_history(TOOLS)), len(results(harvest))) == (1, 1)


def test_again_asks_where_a_partner_has_a_new_label(harvest, notes, serve):
    api = serve()
    labelled(harvest, keys=[TOOLS])
    notes.set_label("h.0.mlp.down_proj:17", LabelDraft(input_view="always on"), author="ann")
    labelled(harvest, keys=[TOOLS], again=True)
    assert ["labelled: always on" in prompt for prompt in api.prompts] == [False, True]
    assert (len(notes.label_history(TOOLS)), len(results(harvest))) == (2, 2)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("where", ["set_label", "results"])
def test_who_is_killed_pays_nothing_twice(harvest, notes, serve, monkeypatch, where):
    api = serve()
    owner, name = (Annotations, "set_label") if where == "set_label" else (ResultsFile, "add")
    real, left = getattr(owner, name), iter(range(4))

    def dying(*args, **kwargs):
        if next(left, None) is None:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            labelled(harvest, limit=10, max_concurrent=1)
    stored = {call.hash for call in ledger_of(harvest).calls() if call.status == "answered"}
    n_before = len(api.asked)
    labelled(harvest, limit=10, max_concurrent=1)
    assert len(stored) >= 5
    assert len(api.asked) - n_before <= 10 - len(stored)
    assert len(api.asked) <= 10 + 1  # one at a time was under way
    assert len(notes.labels()) == len({row["component_key"] for row in results(harvest)}) == len(results(harvest)) == 10
    assert all(label.version == 1 for label in notes.labels())


def test_what_was_labelled_meanwhile_changes_no_question(harvest, serve):
    """Else an interrupted run would pay again: labels of partners are part of a question."""

    def prompts(**how):
        before = len(api.asked)
        labelled(harvest, keys=PAIR, **how)
        return set(api.prompts[before:])

    api = serve()
    first = {call.prompt for call in _calls(harvest)}
    assert prompts() == first == {call.prompt for call in _calls(harvest, again=True)}


def _calls(harvest, **how):
    planned = plan(harvest, Annotations.of(harvest), InterpretRequest(keys=PAIR, **how))
    return list(planned.calls(planned.todo))


def test_questions_are_made_when_they_are_needed(harvest, notes):
    planned = plan(harvest, notes, InterpretRequest())
    made = []
    real = planned.labeller.call
    planned.labeller.call = lambda key, label_of: made.append(key) or real(key, label_of)  # pyright: ignore
    calls = planned.calls(planned.todo)
    assert made == []
    next(calls)
    assert len(made) == 1


# --- budget, estimate, batches ----------------------------------------------------------------------------------------


def test_the_budget_ends_it_and_the_next_one_goes_on(harvest, notes, serve):
    api = serve()
    report = labelled(harvest, limit=10, budget=0.0028, max_concurrent=1)
    assert 0 < report.n_labelled < 10
    assert report.n_labelled + report.n_not_sent == 10
    assert "budget" in str(report.not_sent)
    assert ledger_of(harvest).spending().dollars <= 0.0028
    assert labelled(harvest, limit=10, budget=1.0).n_labelled == 10 - report.n_labelled
    assert len(api.asked) == 10


def test_a_model_without_a_price_is_refused_before_anything_is_asked(harvest, notes, serve):
    api = serve()
    with pytest.raises(SpdToolsError, match="price of model 'gpt'"):
        labelled(harvest, model="gpt")
    assert api.asked == []


def test_an_estimate_sends_nothing_and_needs_no_key(harvest, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    found = estimate_interpretation(harvest, InterpretRequest())
    assert found is not None
    assert found.n_calls == (harvest.firing_counts > 0).sum()
    assert (found.counted, found.output_tokens_at_most) == (False, found.n_calls * MAX_TOKENS)
    assert ledger_of(harvest).calls() == []


def test_an_estimate_counts_what_is_left(harvest, serve):
    api = serve()
    labelled(harvest, limit=4)
    found = estimate_interpretation(harvest, InterpretRequest(limit=6))
    assert found is not None
    assert (found.n_calls, found.counted, api.n_counted) == (2, True, 2)
    assert estimate_interpretation(harvest, InterpretRequest(limit=4)) is None


@pytest.mark.parametrize("again", [False, True])
def test_an_estimate_counts_the_calls_that_a_run_sends(harvest, notes, serve, monkeypatch, again):
    """Whatever components have already: a draft by hand, one of their own, a supported label, an unused answer."""
    api = serve()
    order = [str(harvest.keys.key(flat)) for flat in choose(harvest, limit=12).tolist()]
    mine, baseline, supported, killed, textless, partner = order[:6]
    notes.set_label(mine, LabelDraft(input_view="by hand"), author="ann")
    label_by_top_tokens(harvest, InterpretRequest(keys=[baseline]))
    with monkeypatch.context() as patch:
        patch.setattr("spd_tools.annotations.store.missing_for_support", lambda *args: [])
        notes.set_label(supported, LabelDraft(input_view="well known", wants="supported"), author="ann")
    labelled(harvest, keys=order[8:])
    with monkeypatch.context() as patch:
        patch.setattr(Annotations, "set_label", lambda *args, **how: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            labelled(harvest, keys=[killed])
    notes.set_label(partner, LabelDraft(input_view="a label that others may be shown"), author="ann")
    real = Split.labelling_examples
    monkeypatch.setattr(
        Split, "labelling_examples", lambda split, key, *how: [] if str(key) == textless else real(split, key, *how)
    )
    found = estimate_interpretation(harvest, InterpretRequest(limit=12, again=again))
    before = len(api.asked)
    report = labelled(harvest, limit=12, again=again)
    n_sent = len(api.asked) - before
    assert found is not None
    assert found.n_calls == n_sent == report.n_labelled - report.n_from_ledger
    assert (report.n_supported, [str(failure.key) for failure in report.failures]) == (1, [textless])
    assert [label.author for label in notes.label_history(mine)] == ["ann", SERVED]
    assert estimate_interpretation(harvest, InterpretRequest(limit=12, again=again)) is None


def test_a_draft_by_hand_counts_in_the_estimate_and_is_followed_by_another(harvest, notes, serve):
    api = serve()
    notes.set_label(TOOLS, LabelDraft(input_view="tools"), author="ann")
    found = estimate_interpretation(harvest, InterpretRequest(keys=PAIR))
    assert found is not None
    assert (found.n_calls, labelled(harvest, keys=PAIR).n_labelled, len(api.asked)) == (2, 2, 2)


def test_batches_are_answered_too(harvest, notes, serve):
    api = serve()
    planned = plan(harvest, notes, InterpretRequest(keys=PAIR, batch=True))
    report = asyncio.run(interpret(planned, LanguageModel(ledger_of(harvest), job=planned.job)))
    assert (report.n_labelled, len(api.batches), api.asked) == (2, 1, [])
    assert {str(label.key) for label in notes.labels()} == set(PAIR)


# --- what others wrote ------------------------------------------------------------------------------------------------


def test_a_supported_label_stays_in_front(harvest, notes, serve, monkeypatch):
    api = serve()
    monkeypatch.setattr("spd_tools.annotations.store.missing_for_support", lambda *args: [])
    notes.set_label(TOOLS, LabelDraft(input_view="tools", wants="supported"), author="ann")
    report = labelled(harvest, keys=PAIR)
    assert (report.n_supported, report.n_labelled, len(api.asked)) == (1, 1, 1)
    assert notes.label(TOOLS).author == "ann"


def test_a_draft_of_somebody_s_is_followed_by_another_version(harvest, notes, serve):
    serve()
    notes.set_label(TOOLS, LabelDraft(input_view="tools"), author="ann")
    labelled(harvest, keys=[TOOLS])
    assert [label.author for label in notes.label_history(TOOLS)] == ["ann", SERVED]


def test_a_component_without_a_text_to_label_by_is_named(harvest, notes, serve, monkeypatch):
    api = serve()
    monkeypatch.setattr("spd_tools.evaluate.splits.Split.labelling_examples", lambda *args: [])
    report = labelled(harvest, keys=[TOOLS])
    assert [str(failure.key) for failure in report.failures] == [TOOLS]
    assert "labelling split" in report.failures[0].reason
    assert (report.n_labelled, api.asked) == (0, [])


# --- without a model --------------------------------------------------------------------------------------------------


def test_the_baseline_lists_top_tokens_and_says_so(harvest, notes):
    report = label_by_top_tokens(harvest, InterpretRequest(keys=[TOOLS]))
    label = notes.label(TOOLS)
    assert (report.n_labelled, report.labeller, label.author) == (1, "top-tokens", "top-tokens")
    assert label.input_view.startswith('top tokens, by share of its firings: "saw" (28.9 %), "drill" (24.6 %)')
    assert "without a language model" in label.notes
    assert label.confidence is None


def test_the_baseline_stands_in_front_of_nobody(harvest, notes, serve):
    serve()
    labelled(harvest, keys=[TOOLS])
    assert label_by_top_tokens(harvest, InterpretRequest(keys=PAIR)).n_labelled == 1
    assert notes.label(TOOLS).author == SERVED


def test_a_model_labels_what_the_baseline_labelled(harvest, notes, serve):
    api = serve()
    label_by_top_tokens(harvest, InterpretRequest(keys=[TOOLS]))
    assert labelled(harvest, keys=[TOOLS]).n_labelled == 1
    assert notes.label(TOOLS).author == SERVED
    assert len(api.asked) == 1
    assert len(results(harvest)) == 1


# --- where labels appear ----------------------------------------------------------------------------------------------


def test_labels_are_found_and_exported(harvest, notes, serve, tmp_path):
    serve()
    labelled(harvest, keys=[TOOLS])
    words = rules()[TOOLS].description.split()[:3]
    assert [str(label.key) for label in notes.search_labels(" ".join(words))] == [TOOLS]
    assert notes.export_neuronpedia(tmp_path / "explanations.jsonl") == 1
    row = json.loads((tmp_path / "explanations.jsonl").read_text())
    assert (row["explanationModelName"], row["description"]) == (SERVED, rules()[TOOLS].description)
