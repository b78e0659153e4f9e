"""What is said about an evaluation: on the terminal, as one page, and by the command."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from llm.stand_in import Say
from rich.console import Console

from spd_tools.annotations import LabelDraft
from spd_tools.cli import evaluate as command
from spd_tools.cli.arguments import Parser
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.report import N_BINS, make_report
from spd_tools.evaluate.report_html import report_html, write_report
from spd_tools.render.evaluation import evaluation_page

HOSTILE = "<script>alert(1)</script> \x1b[31m[bold]x[/bold] \u202e </excerpts> '\" onload=x {{ 7*7 }} «y»"
SCORES = ("intruder", "detection", "simulation")


class Page(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture
def evaluated(serve, honest, run, keys, ledger, planted):
    """Three components, one trial of which fails; (report, summary)."""
    broken: list[str] = []

    def rule(asked):
        if not broken and "one marked token each" in asked.system:
            broken.append(asked.prompt)
        return Say("", stop_reason="refusal") if asked.prompt in broken else honest(asked)

    serve(rule)
    settings, summary = run(keys=keys, scores=SCORES, n_trials=6)
    return make_report(planted.split.harvest, settings, spending=ledger.spending(settings.id)), summary


def terminal(report, summary, width=160) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    for part in evaluation_page(report, summary):
        console.print(part)
    return console.export_text()


def test_distributions_count_every_component(evaluated, keys, store):
    report, _ = evaluated
    for each in report.distributions:
        values = store.values(report.id, each.score, each.judged)
        assert (each.n, sum(each.bins), len(each.bins)) == (len(values), len(values), N_BINS)
        assert each.n + each.n_unscored == len(keys)
        if not values:
            assert (each.mean, each.quartiles) == (None, None)
            continue
        assert each.mean == pytest.approx(sum(values) / len(values))
        assert each.quartiles[0] <= each.quartiles[1] <= each.quartiles[2]
    kinds = [(each.score, each.judged) for each in report.distributions]
    assert kinds[0] == ("intruder", "none")
    assert len(kinds) == len(set(kinds)) == 1 + 2 * 4


def test_labels_are_compared_with_their_baselines(evaluated, store):
    report, _ = evaluated
    found = {(each.score, each.baseline): each for each in report.comparisons}
    pairs = store.pairs(report.id, "detection", "label", "another")
    each = found["detection", "another"]
    assert each.n == len(pairs) == 3
    assert each.mean_difference == pytest.approx(sum(one - two for one, two in pairs) / 3)
    assert each.share_better == 1


def test_best_and_worst_come_with_their_trials(evaluated, store):
    report, _ = evaluated
    for extremes in report.extremes:
        shown = extremes.best + extremes.worst
        assert len({found.own.key for found in shown}) == len(shown) == 3
        values = [found.own.value for found in extremes.best]
        assert values == sorted(values, reverse=True)
        for found in shown:
            assert [trial.trial for trial in found.trials] == [trial for trial, _ in found.own.trials]
    trials = [trial for found in report.extremes[1].best for trial in found.trials]
    failed = [trial for trial in trials if trial.reason]
    assert [window.right for trial in failed for window in trial.windows] == [None] * 10
    assert all(window.right for trial in trials if not trial.reason for window in trial.windows)
    assert all("«" in window.text for trial in trials for window in trial.windows)


def test_costs_are_those_of_the_ledger(evaluated, ledger):
    report, _ = evaluated
    [cost] = report.costs
    answered = [call for call in ledger.calls() if call.status == "answered"]
    assert cost.dollars == pytest.approx(sum(call.dollars for call in answered))
    assert cost.usage.output == sum(call.usage.output for call in answered)
    assert report.spending.dollars == pytest.approx(sum(call.dollars for call in ledger.calls()))
    assert report.spending.dollars > cost.dollars


def test_a_report_holds_what_there_is_before_anything_is(planted, notes, keys):
    from spd_tools.evaluate.plan import settings_of

    report = make_report(planted.split.harvest, settings_of(planted.split.harvest, keys=keys))
    assert [each.n for each in report.distributions] == [0] * 8
    assert all(each.mean is None for each in report.distributions)
    assert "No component has a value" in report_html(report)


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_the_terminal_shows_everything(evaluated, keys):
    report, summary = evaluated
    page = terminal(report, summary)
    for wanted in (report.id, *SCORES, "another's label", "top tokens", "mean difference", *keys, "refused", "$0.0"):
        assert wanted in page, wanted


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_terminal(evaluated, width):
    assert all(len(line) <= width for line in terminal(*evaluated, width=width).splitlines())


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(evaluated):
    page = Page(report_html(evaluated[0]))
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert "default-src 'none'" in str(page.attributes)
    assert "url(" not in report_html(evaluated[0])
    assert page.tags.count("svg") == len(SCORES)
    assert page.tags.count("polygon") == sum(each.n > 0 for each in evaluated[0].distributions) >= 7


def test_the_page_shows_trials_and_marks(evaluated):
    report, _ = evaluated
    page = Page(report_html(report))
    n_trials = sum(len(found.trials) for extremes in report.extremes for found in (*extremes.best, *extremes.worst))
    assert page.tags.count("details") == n_trials
    assert page.tags.count("mark") >= 10 * n_trials / 3
    for wanted in ("refused", "Against baselines", "Worst by" if report.extremes[0].worst else "Best by"):
        assert wanted in page.text


def test_hostile_text_is_inert(serve, run, notes, keys, planted):
    """In labels, in what servers and models say, and in names."""
    notes.set_label(keys[0], LabelDraft(input_view=HOSTILE), author=HOSTILE[:50])
    answer = Say({"numbers": [1]}, model="<b>m</b>\x1b[0m")
    serve(lambda asked: answer)
    settings, summary = run(keys=keys[:1], scores=("detection",), baselines=False)
    report = make_report(planted.split.harvest, settings)
    failed = report.model_copy(update={"failures": {HOSTILE: 3}, "run_id": HOSTILE})
    html = report_html(failed)
    page = Page(html)
    assert not {"script", "b", "excerpts"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7*7 }}" in html
    for text in (html, terminal(failed, summary)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "[bold]x[/bold]" in terminal(failed, summary)


def test_the_page_appears_whole_or_not_at_all(evaluated, tmp_path):
    write_report(evaluated[0], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == report_html(evaluated[0])
    with pytest.raises(SpdToolsError, match="no folder"):
        write_report(evaluated[0], tmp_path / "nowhere" / "page.html")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def type_it(planted, out_dir, notes, capsys):
    """Run one command line; returns (stdout, stderr)."""
    harvest = planted.split.harvest
    folder = out_dir / "harvest" / harvest.run_id
    folder.mkdir(parents=True)
    (folder / harvest.harvest_id).symlink_to(harvest.folder)
    parser = Parser()
    parser.set_defaults(json=False)
    command.add_commands(parser.add_subparsers())

    def type_it(*argv):
        args = parser.parse_args(["evaluate", harvest.run_id, *map(str, argv)])
        args.handler(args)
        return capsys.readouterr()

    return type_it


def test_the_command_scores_and_reports(serve, honest, type_it, keys, tmp_path):
    serve(honest)
    page = tmp_path / "page.html"
    out, err = type_it("--score", "detection,fuzzing", "--keys", *keys[:2], "--no-baselines", "--report", page)
    assert "detection" in out
    assert keys[0] in out
    assert str(page) in err
    assert Page(page.read_text()).tags.count("svg") == 2


def test_the_command_s_json_is_one_document(serve, honest, type_it, keys):
    serve(honest)
    out, _ = type_it("--score", "detection", "--limit", 2, "--trials", 7, "--seed", 3, "--no-baselines", "--json")
    document = json.loads(out)
    assert document["summary"]["n_scored"] == 2
    assert document["report"]["settings"]["n_trials"] == 7
    assert document["report"]["settings"]["seed"] == 3
    assert document["report"]["distributions"][0]["mean"] >= 0.95


def test_the_command_says_what_a_budget_left(serve, honest, type_it, keys):
    api = serve(honest)
    out, err = type_it("--score", "detection", "--no-baselines", "--budget", 0.001, "--max-concurrent", 1)
    assert "3 scores are left. Not sent: it might have crossed the budget" in err
    assert api.asked == []
    assert "3 left" in out


def test_an_estimate_asks_nothing(serve, honest, type_it, keys):
    api = serve(honest)
    out, _ = type_it("--estimate", "--json")
    found = json.loads(out)
    assert (len(api.asked), found["n_calls"]) == (0, 3 * 2 * 4 * 6)
    assert 0 < found["dollars_at_most"] < 1
    assert found["counted"]


def test_failed_trials_are_said(serve, type_it, keys):
    serve(lambda asked: Say("", stop_reason="refusal"))
    out, err = type_it("--score", "intruder", "--keys", keys[0])
    assert "6 trials failed" in err
    assert "refused" in out


@pytest.mark.parametrize("score", ["", "detecton", "generation"])
def test_unknown_scores_are_not_understood(type_it, score, capsys):
    with pytest.raises(SystemExit) as leaving:
        type_it("--score", score)
    assert leaving.value.code == 2
