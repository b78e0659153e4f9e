"""Rule 1, for labels by people and agents: what they may have seen is kept out of scoring, the rest is said."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest
from annotations.annotation_results import probed, reduced, subject_info
from evaluation_harvests import MadeUp
from labelling import answered, interpreted
from rich.console import Console

from spd_tools.annotations import Annotations, LabelDraft
from spd_tools.evaluate.origins import LabelOrigin, Origins, named_rows, seen_rows
from spd_tools.evaluate.records import BASELINES
from spd_tools.evaluate.report import make_report
from spd_tools.evaluate.report_html import report_html
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.trials import SCORES, make_trials
from spd_tools.interpret import DEFAULT_MODEL, top_tokens_label
from spd_tools.keys import ComponentKey
from spd_tools.llm import Ledger
from spd_tools.render.evaluation import evaluation_page

BY_ANA = LabelOrigin("ana", False, "it was not written by interpret", ())
DENSE = [9, 10, 11]


def desk(harvest) -> tuple[Annotations, Ledger, Origins]:
    """Where labels of a harvest come from."""
    notes = Annotations.of(harvest)
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    return notes, ledger, Origins(harvest, notes, ledger)


def whole_rows(made_up: MadeUp, rows) -> set[tuple[int, ...]]:
    """Texts of all windows of some rows."""
    return {made_up.text(row, at) for row in rows for at in range(made_up.given.lengths[row])}


def shown(made_up: MadeUp, component: int, seen=None) -> set[tuple[int, ...]]:
    """Texts of all windows of many trials of every score of a component."""
    key = made_up.harvest.keys.key(component)
    made = [trial for score in SCORES for trial in make_trials(made_up.split, key, score, 30, seen=seen).trials]
    assert len(made) > 30
    return {tuple(window.token_ids) for trial in made for window in trial.windows}


def example_rows(made_up: MadeUp, component: int) -> set[int]:
    counted = made_up.counted
    return {example.row for example in counted.uniform[component] + counted.top[component]}


# --- what is kept out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", DENSE)
def test_who_memorised_the_rows_of_every_stored_example_and_of_all_evidence_meets_none_of_them(
    made_up: MadeUp, component
):
    harvest, key = made_up.harvest, made_up.harvest.keys.key(component)
    notes, _, origins = desk(harvest)
    fingerprint = harvest.manifest.decomposition.fingerprint
    named = [int(row) for row in made_up.counted.logged_rows if made_up.split.scoring(row)][:20]
    places = [{**dict.fromkeys(("response", "kept", "kept_by_others"), 0.5), "place": f"row:{named[0]}:3"}]
    place = {"length": 1, "offsets": [], "token_ids": [], "token_texts": [], "context": [], "context_texts": []}
    about = {"key": str(key), "fingerprint": fingerprint, "subject": subject_info(fingerprint, harvest.harvest_id)}
    notes.add_evidence(probed([f"row:{row}" for row in named[1:]], **about), author="ana")
    notes.add_evidence(reduced(**about, places=[places[0] | place]), author="ana")
    label = notes.set_label(key, LabelDraft(input_view="what I remember"), author="ana").label
    origin = origins.of(label)
    assert origin == LabelOrigin("ana", False, "it was not written by interpret", tuple(sorted(named)))
    memory = whole_rows(made_up, example_rows(made_up, component) | set(named))
    assert shown(made_up, component) & memory, "the rows are such that nothing kept out would fail"
    assert not shown(made_up, component, seen_rows(harvest, key, origin)) & memory


def test_rows_of_stored_examples_are_kept_out_of_either_half_and_wherever_their_passages_recur(made_up: MadeUp):
    key = made_up.harvest.keys.key(10)
    seen = seen_rows(made_up.harvest, key, BY_ANA)
    assert set(seen.tolist()) == example_rows(made_up, 10)
    hidden = made_up.split.hidden_texts(key, seen)
    usable = made_up.split.usable(made_up.split.logged.positions, hidden)
    memory = whole_rows(made_up, seen.tolist())
    seq = made_up.harvest.seq_len
    texts = [made_up.text(*divmod(at, seq)) for at in made_up.split.logged.positions.tolist()]
    slow = [text not in memory for text in texts]
    # In labelling rows without a log stand further windows, which are kept out for anybody.
    fewer = made_up.split.usable(made_up.split.logged.positions, made_up.split.hidden_texts(key))
    assert usable.tolist() == [one and other for one, other in zip(slow, fewer.tolist(), strict=True)]
    elsewhere = [at // seq for at, kept in zip(made_up.split.logged.positions.tolist(), slow, strict=True) if not kept]
    assert set(elsewhere) - set(seen.tolist()), "some passages recur in other rows"


def test_trials_of_blind_labels_are_what_they_were(made_up: MadeUp):
    """Of labels by `interpret`, the same windows as before anything was kept out for others."""
    blind = LabelOrigin(DEFAULT_MODEL, True, None, ())
    ids: list[str] = []
    for component in range(15):
        key = made_up.harvest.keys.key(component)
        seen = seen_rows(made_up.harvest, key, blind)
        assert seen.tolist() == seen_rows(made_up.harvest, key, None).tolist() == []
        for score in SCORES:
            ids += [trial.id for trial in make_trials(made_up.split, key, score, 12, seen=seen).trials]
    assert (len(ids), hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]) == (493, "a830e5f945af50f9")


def test_too_little_left_is_no_score_and_the_reason_says_why(made_up: MadeUp):
    key = made_up.harvest.keys.key(3)  # rare: many of its firings are stored examples
    assert make_trials(made_up.split, key, "detection", 5).reason is None
    made = make_trials(made_up.split, key, "detection", 5, seen=seen_rows(made_up.harvest, key, BY_ANA))
    assert made.reason == (
        f"{key} has material for only 3 of the 5 trials that a score needs: the log's scoring rows that the label's "
        "author need not have seen hold 19 of its firings, and trials share no window."
    )


# --- whose label it is ------------------------------------------------------------------------------------------------


def test_labels_of_interpret_are_blind(planted, keys):
    notes, ledger, origins = desk(planted.split.harvest)
    label = interpreted(planted.split.harvest, notes, ledger, keys[0], "weekdays")
    assert origins.of(label) == LabelOrigin(DEFAULT_MODEL, True, None, ())


def test_lists_of_top_tokens_are_blind(planted, keys):
    notes, _, origins = desk(planted.split.harvest)
    draft = top_tokens_label(planted.split.harvest, keys[0])
    assert draft is not None
    assert origins.of(notes.set_label(keys[0], draft, author="top-tokens").label).blind
    other = draft.model_copy(update={"input_view": "a memory of row 3"})
    assert not origins.of(notes.set_label(keys[0], other, author="top-tokens").label).blind


NO_CALL = "the ledger holds no call that it is the answer to"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("reworded", "its words are not those that its notes say it comes from"),
        ("another author", NO_CALL),
        ("another component", NO_CALL),
        ("no such call", NO_CALL),
        ("another harvest", "it was made from another harvest"),
        ("no provenance", "it was not written by interpret"),
    ],
)
def test_notes_that_the_ledger_does_not_bear_out_make_no_label_blind(planted, keys, what, reason):
    """Whoever edits a label hands in its notes again, provenance and all."""
    harvest = planted.split.harvest
    notes, ledger, origins = desk(harvest)
    draft = answered(harvest, ledger, keys[0], "weekdays")
    key, author, changed = keys[0], DEFAULT_MODEL, {}
    match what:
        case "reworded":
            changed = {"input_view": "weekdays, as in row 3"}
        case "another author":
            author = "ana"
        case "another component":
            key = keys[1]
        case "no such call":
            changed = {"notes": draft.notes.replace('"call": "', '"call": "0')}
        case "another harvest":
            changed = {"notes": draft.notes.replace(harvest.harvest_id, "0" * 12)}
        case "no provenance":
            changed = {"notes": "mine"}
    label = notes.set_label(key, draft.model_copy(update=changed), author=author).label
    assert (origins.of(label).blind, origins.of(label).reason) == (False, reason)


def test_evidence_counts_that_came_before_the_label_or_is_cited(planted, keys, out_dir):
    harvest = planted.split.harvest
    notes, _, origins = desk(harvest)
    fingerprint = harvest.manifest.decomposition.fingerprint

    def add(row: int, harvest_id: str = harvest.harvest_id, key: str = keys[0]) -> str:
        about = {"key": key, "fingerprint": fingerprint, "subject": subject_info(fingerprint, harvest_id)}
        return notes.add_evidence(probed([f"row:{row}"], **about), author="ana").id

    add(1)
    add(2, harvest_id="0" * 12)
    add(3, key=keys[1])
    label = notes.set_label(keys[0], LabelDraft(input_view="mine"), author="ana").label
    later = add(4)
    assert origins.of(label).rows == (1,)
    cites = LabelDraft(input_view="mine", evidence=[later])
    assert origins.of(notes.set_label(keys[0], cites, author="ana").label).rows == (1, 4)


def test_rows_are_read_as_experiments_name_them():
    document = (
        '{"request": {"texts": ["row:12", "row:7:3", "a row:5", "row:x", "row:9 "]}, "places": [{"at": "row:1:2"}]}'
    )
    assert named_rows(document) == {12, 7, 1}


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_score_says_whose_label_it_is_about_and_what_was_kept_out(serve, honest, run, planted, keys, notes, ledger):
    serve(honest)
    harvest = planted.split.harvest
    text = planted.decomposition.rules[keys[1]].description
    interpreted(harvest, notes, ledger, keys[1], text)
    settings, summary = run(keys=keys[:2], scores=("intruder", "detection"))
    store = ResultStore.of(harvest)
    said = (
        "Label by truth: not blind to the data set (it was not written by interpret); the rows of the stored examples "
        f"of {keys[0]}"
    )
    by_hand, by_model = (store.score(settings.id, key, "detection", "label") for key in keys[:2])
    assert by_hand.origin == LabelOrigin("truth", False, "it was not written by interpret", ())
    assert by_hand.notes[0].startswith(said)
    assert by_model.origin == LabelOrigin(DEFAULT_MODEL, True, None, ())
    assert not any("blind" in note for note in by_model.notes)
    assert store.score(settings.id, keys[0], "intruder", "none").origin is None
    for baseline in BASELINES:
        row = store.score(settings.id, keys[0], "detection", baseline)
        assert row.origin == by_hand.origin
        assert [trial for trial, _ in row.trials] == [trial for trial, _ in by_hand.trials]
    [score] = [score for score in notes.scores(keys[0]) if score.method == "detection"]
    assert score.details["origin"] == {
        "author": "truth",
        "blind": False,
        "reason": "it was not written by interpret",
        "rows": [],
    }
    assert score.details["notes"][0].startswith(said)

    report = make_report(harvest, settings)
    assert [(each.author, each.blind, each.n) for each in report.labels] == [
        (DEFAULT_MODEL, True, 1),
        ("truth", False, 1),
    ]
    console = Console(width=300, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    console.print(*evaluation_page(report, summary))
    for page in (report_html(report), console.export_text()):
        assert said in page
        assert "labelling half only" in page
        assert "the rows of stored examples were kept out" in page
    best = {str(found.own.key): found for found in report.extremes[1].best}
    assert len(best[keys[0]].trials) == len(by_hand.trials), "its trials are found again"


def test_the_trials_of_a_person_s_label_are_those_without_what_they_may_have_seen(serve, honest, run, planted, keys):
    serve(honest)
    harvest, key = planted.split.harvest, ComponentKey.parse(keys[0])
    settings, _ = run(keys=keys[:1], scores=("detection", "fuzzing"), baselines=False)
    for score in settings.scores:
        row = ResultStore.of(harvest).score(settings.id, keys[0], score, "label")
        made = make_trials(planted.split, key, score, 6, seen=seen_rows(harvest, key, row.origin)).trials
        assert [trial for trial, _ in row.trials] == [trial.id for trial in made]
        assert {trial.id for trial in made} != {trial.id for trial in make_trials(planted.split, key, score, 6).trials}


def test_the_same_words_by_somebody_else_are_judged_on_other_trials_baselines_too(
    serve, honest, run, planted, keys, notes, ledger
):
    serve(honest)
    harvest = planted.split.harvest
    text = planted.decomposition.rules[keys[0]].description
    interpreted(harvest, notes, ledger, keys[0], text)
    settings, _ = run(keys=keys[:1], scores=("detection",))
    store = ResultStore.of(harvest)

    def trials() -> dict[str, list[str]]:
        rows = {judged: store.score(settings.id, keys[0], "detection", judged) for judged in ("label", *BASELINES)}
        return {judged: [trial for trial, _ in row.trials] for judged, row in rows.items()}

    blind = trials()
    notes.set_label(keys[0], LabelDraft(input_view=text), author="ana")
    _, summary = run(keys=keys[:1], scores=("detection",))
    assert summary.n_known == 0
    by_hand = trials()
    assert len({tuple(found) for found in by_hand.values()}) == 1
    assert by_hand["label"] != blind["label"]
    _, summary = run(keys=keys[:1], scores=("detection",))
    assert summary.n_known == 1


def test_scores_of_version_1_are_read_and_made_again(serve, honest, run, keys, store):
    api = serve(honest)
    settings, _ = run(keys=keys, scores=("detection",), baselines=False)
    before, asked = store.score(settings.id, keys[0], "detection", "label"), len(api.asked)
    with sqlite3.connect(store._database.path) as connection:
        connection.execute("ALTER TABLE evaluation_scores DROP COLUMN origin")
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'evaluation_version'")
    old = store.score(settings.id, keys[0], "detection", "label")
    assert old == before.model_copy(update={"origin": None})
    assert store.label_sources(settings.id, "detection") == []
    _, summary = run(keys=keys, scores=("detection",), baselines=False)
    assert (summary.n_known, summary.n_scored, len(api.asked)) == (0, 3, asked)  # the answers are in the ledger
    assert store.score(settings.id, keys[0], "detection", "label") == before
