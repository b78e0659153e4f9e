import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from interpreting import TOOLS

from spd_tools.annotations import LabelDraft
from spd_tools.errors import SpdToolsError
from spd_tools.interpret.provenance import Provenance, provenance_of, reasoning_of
from spd_tools.interpret.results import ResultsFile

ORIGIN = Provenance(asked="m", prompt="detects", harvest_id="abc", call="c" * 64, label="Größe\ttools", verdict="clear")


@pytest.fixture
def write(notes):
    def write(number=0, **fields):
        draft = LabelDraft(input_view=f"tools {number}", notes=ORIGIN.notes("two\nlines"), **fields)
        return notes.set_label(TOOLS, draft, author="m-1").label

    return write


def rows(path):
    return [json.loads(line) for line in path.read_bytes().decode("ascii").split("\n")[:-1]]


def test_provenance_survives_the_notes(write):
    label = write()
    assert provenance_of(label) == ORIGIN
    assert reasoning_of(label) == "two\nlines"


@pytest.mark.parametrize("text", ["", "made by hand", "interpret: it fires on tools", 'interpret: {"asked": 1}'])
def test_a_person_s_notes_have_no_provenance(notes, text):
    label = notes.set_label(TOOLS, LabelDraft(input_view="x", notes=text), author="ann").label
    assert provenance_of(label) is None


def test_a_line_holds_all_of_an_interpretation(tmp_path, write):
    label = write(confidence=0.5, output_view="verbs")
    ResultsFile(tmp_path / "new" / "results.jsonl").add(label, ORIGIN)
    assert rows(tmp_path / "new" / "results.jsonl") == [
        {
            "component_key": TOOLS,
            "layer": "h.0.mlp.down_proj",
            "component_idx": 13,
            "label": "Größe\ttools",
            "input_view": "tools 0",
            "output_view": "verbs",
            "confidence": 0.5,
            "verdict": "clear",
            "reasoning": "two\nlines",
            "model": "m-1",
            "model_asked": "m",
            "prompt": "detects",
            "harvest_id": "abc",
            "call_hash": "c" * 64,
            "label_id": label.id,
            "created": label.created,
        }
    ]


def test_a_label_gets_one_line_whoever_adds_it(tmp_path, write):
    path, label = tmp_path / "results.jsonl", write()
    first = ResultsFile(path)
    first.add(label, ORIGIN)
    first.add(label, ORIGIN)
    ResultsFile(path).add(label, ORIGIN)
    assert len(rows(path)) == 1


def test_what_is_there_is_never_changed(tmp_path, write):
    path = tmp_path / "results.jsonl"
    ResultsFile(path).add(write(1), ORIGIN)
    before = path.read_bytes()
    ResultsFile(path).add(write(2), ORIGIN)
    assert path.read_bytes().startswith(before)
    assert len(rows(path)) == 2


@pytest.mark.parametrize("torn", [b'{"label_id": "l-1", "la', b"x" * 200_000])
def test_a_torn_line_of_a_killed_process_goes(tmp_path, write, torn):
    path, first, second = tmp_path / "results.jsonl", write(1), write(2)
    ResultsFile(path).add(first, ORIGIN)
    with path.open("ab") as file:
        file.write(torn)
    ResultsFile(path).add(second, ORIGIN)
    assert [row["label_id"] for row in rows(path)] == [first.id, second.id]


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"component_key": "a:1"}\n'])
def test_another_s_file_is_left_alone(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(SpdToolsError, match="Line 1 of"):
        ResultsFile(path)
    assert path.read_bytes() == content


def test_many_may_write_at_once(tmp_path, write):
    path, labels = tmp_path / "results.jsonl", [write(number) for number in range(40)]
    files = [ResultsFile(path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: files[n % 8].add(labels[n], ORIGIN), range(40)))
    assert sorted(row["label_id"] for row in rows(path)) == sorted(label.id for label in labels)
