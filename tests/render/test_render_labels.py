import io
import unicodedata

import pytest
from rich.console import Console

from spd_tools.annotations import Dispute, EvidenceSummary, Hypothesis, LabelRecord, Lease, LogEntry, QueueItem
from spd_tools.render.labels import (
    disputes_table,
    evidence_page,
    hypotheses_page,
    label_line,
    label_page,
    labels_table,
    leases_table,
    log_page,
    queue_table,
)

KEY = "h.0.mlp.c_fc:1"
HOSTILE = "\x1b[31mred [bold]x[/bold]\u202e\x9b"
WRITTEN = {"created": "2026-11-20T21:57:20.712239+00:00", "author": "ann"}


def shown(renderable, width=120):
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    console.print(renderable)
    return console.file.getvalue()


def label(**changes):
    fields = {
        "id": "l-1",
        "key": KEY,
        "version": 2,
        "status": "draft",
        "input_view": "fires on tools",
        "output_view": "verbs",
        "output_effect": "raises",
        "category": "tokens",
        "confidence": 0.5,
        "notes": "",
        "ruled_out": ["position"],
        "evidence": ["sweep-1"],
        "wants": "supported",
        "missing": ["It cites no test."],
    }
    return LabelRecord(**(WRITTEN | fields | changes))


def evidence(**changes):
    fields = {
        "id": "sweep-1",
        "key": KEY,
        "experiment": "sweep",
        "kind": "counterfactual",
        "harvest_id": "abc",
        "n": 12,
        "effect": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 12},
        "control": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 99},
        "excludes_control": True,
        "p_value": 0.01,
        "summary": "It does.",
    }
    return EvidenceSummary(**(WRITTEN | fields | changes))


def lease(**changes):
    return Lease(**(WRITTEN | {"key": KEY, "expires": "2026-11-20T22:27:20+00:00"} | changes))


def item(**changes):
    fields = {"priority": 0.5, "why": "unlabelled", "density": 0.25, "effect": None, "status": None, "disputed": False}
    return QueueItem(key=KEY, **(fields | {"lease": None} | changes))


def hypothesis(**changes):
    fields = {"id": "h-1", "version": 1, "key": KEY, "text": "fires on tools", "status": "open", "confidence": 0.5}
    return Hypothesis(**(WRITTEN | fields | {"note": None, "evidence": []} | changes))


def entry(**changes):
    return LogEntry(**(WRITTEN | {"id": "n-1", "key": None, "text": "first\nsecond"} | changes))


HOSTILE_PAGES = {
    "label_line": label_line(label(input_view=HOSTILE)),
    "label_page": label_page(
        label(
            input_view=HOSTILE, output_view=HOSTILE, category=HOSTILE, notes=HOSTILE, ruled_out=[HOSTILE],
            evidence=[HOSTILE], missing=[HOSTILE], author=HOSTILE, created=HOSTILE,
        )
    ),
    "labels_table": labels_table([label(input_view=HOSTILE, category=HOSTILE)]),
    "disputes_table": disputes_table([Dispute(key=KEY, why=HOSTILE)]),
    "queue_table": queue_table([item(why=HOSTILE, lease=lease(author=HOSTILE, expires=HOSTILE))]),
    "leases_table": leases_table([lease(author=HOSTILE)]),
    "evidence_page": evidence_page([evidence(author=HOSTILE, id=HOSTILE, kind=HOSTILE)], {}, "xyz"),
    "hypotheses_page": hypotheses_page([hypothesis(text=HOSTILE, note=HOSTILE, evidence=[HOSTILE], author=HOSTILE)]),
    "log_page": log_page([entry(text=HOSTILE, author=HOSTILE)]),
}  # fmt: skip


@pytest.mark.parametrize("page", HOSTILE_PAGES.values(), ids=HOSTILE_PAGES)
def test_hostile_text_is_inert(page):
    text = shown(page, width=200)
    assert {char for char in text if unicodedata.category(char) in {"Cc", "Cf"}} <= {"\n"}
    assert "␛[31mred [bold]x[/bold]" in text


@pytest.mark.parametrize("width", [40, 120])
@pytest.mark.parametrize("page", HOSTILE_PAGES.values(), ids=HOSTILE_PAGES)
def test_pages_fit_their_terminal(page, width):
    assert max(map(len, shown(page, width).splitlines())) <= width


def test_a_label_that_was_not_supported_says_what_it_lacks():
    text = shown(label_page(label()))
    assert "version 2, draft, confidence 0.500  by ann, 2026-11-20 21:57" in text
    assert "It stays a draft:" in text
    assert "- It cites no test." in text


def test_a_supported_label_lacks_nothing():
    text = shown(label_page(label(status="supported", missing=[])))
    assert "supported" in text
    assert "It stays a draft" not in text


def test_what_a_label_does_not_say_is_left_out():
    text = shown(label_page(label(confidence=None, output_view="", output_effect="unknown", category="")))
    assert not {"confidence", "effect", "category", "unknown"} & set(text.split())


def test_an_effect_that_nobody_measured_is_no_zero():
    assert "–" in shown(queue_table([item()])).splitlines()[-1].split()
    assert "0" in shown(queue_table([item(effect=0.0)])).splitlines()[-1].split()


def test_evidence_about_one_component_names_it_once():
    one = shown(evidence_page([evidence(), evidence(id="sweep-2")], {"sweep-1": 0.02}, "abc"))
    assert one.count(KEY) == 1
    two = shown(evidence_page([evidence(), evidence(key="h.0.mlp.c_fc:2")], {}, "abc"))
    assert "h.0.mlp.c_fc:2" in two


def test_evidence_shows_effect_beside_control_and_both_p_values():
    page = shown(evidence_page([evidence()], {"sweep-1": 0.02}, "abc"))
    line = next(line for line in page.splitlines() if "sweep-1" in line)
    effect, control = "0.500 [0.250, 0.750]", "0.100 [0, 0.200]"
    assert line.split() == [
        "sweep-1",
        *effect.split(),
        *control.split(),
        "yes",
        "0.01",
        "0.02",
        "ann",
    ]


def test_evidence_without_control_or_p_value_shows_none():
    page = shown(evidence_page([evidence(control=None, p_value=None, excludes_control=None)], {}, "abc"))
    line = next(line for line in page.splitlines() if "sweep-1" in line)
    assert line.split()[-5:] == ["–", "–", "–", "–", "ann"]


def test_evidence_of_other_harvests_says_which():
    mixed = shown(evidence_page([evidence(), evidence(id="sweep-2", harvest_id="def")], {}, "abc"))
    assert {"abc", "def"} <= set(mixed.split())
    assert "def" in shown(evidence_page([evidence(harvest_id="def")], {}, "abc")).split()
    assert "harvest" not in shown(evidence_page([evidence()], {}, "abc")).splitlines()[1].split()


def test_log_entries_keep_their_lines():
    lines = [line.strip() for line in shown(log_page([entry()])).splitlines()]
    assert lines == ["2026-11-20 21:57  ann", "first", "second"]
