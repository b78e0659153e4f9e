"""Everything that the README tells people to type is typed here, and shows what the README shows."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from llm.stand_in import KEY, StandIn
from readme_model import RuleKnower
from tokenizers import Tokenizer, models, pre_tokenizers

from spd_tools.cli.parser import build_parser

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
BEING_BUILT: set[str] = set()
"""Commands that are not advertised yet."""
CUT = "…"
"""A line of the README that stands for what was left out."""
_DRAWN = re.compile(r"\b(?:h|harvest)-[0-9a-f]{12}\b")
"""Ids of hypotheses and jobs, others each time: a command that has one is typed with the one that was printed."""
_CHANGING = {
    r"\d+\.\d+": "#",  # sizes, seconds, and floats, whose last digit may differ between machines
    r"[\d,]+ tokens/s \S+": "# tokens/s",
    r" \d+:\d\d:\d\d": "",  # time left
    r"\d{4}-\d\d-\d\d \d\d:\d\d": "date",
    r"\b[0-9a-f]{12}\b": "id",
    r"━+": "━",
    r"─+": "─",
    r"\s+": " ",
}


_COUNT = re.compile(r"(?<![\w.:])\d[\d,]*(?![\w.:])")


@dataclass(frozen=True)
class Command:
    """One command line of the README, with the lines shown below it."""

    line: str
    shown: list[str]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[Command]:
    found = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:], []))
            else:
                found[-1].shown.append(line)
    return found


MADE_BY_CI = [command for command in commands() if command.line.startswith("make ")]
TYPED = [command for command in commands() if command not in MADE_BY_CI]
OF_THE_DEMO = TYPED[: [command.line for command in TYPED].index("export SPD_OUT_DIR=~/known")]
"""What the README types before it turns to the planted decomposition, whose counts are the same everywhere."""


def comparable(line: str) -> str:
    for pattern, replacement in _CHANGING.items():
        line = re.sub(pattern, replacement, line)
    return line.strip()


def near(shown: str, printed: str) -> bool:
    """Whether two comparable lines are equal up to 3 % of their counts: on the last bits of a real model's activations,
    which differ between machines, hangs what fires."""
    if _COUNT.sub("#", shown) != _COUNT.sub("#", printed):
        return False
    counts = zip(
        *([int(found.replace(",", "")) for found in _COUNT.findall(line)] for line in (shown, printed)), strict=True
    )
    return all(abs(a - b) <= max(2, 0.03 * a) for a, b in counts)


def drawn(command: Command, output: str) -> dict[str, str]:
    """Ids that the README shows below a command -> those that were printed in their places."""
    printed = {comparable(line): line for line in output.splitlines()}
    pairs = [(line, printed.get(comparable(line), "")) for line in command.shown]
    return {old: new for pair in pairs for old, new in zip(*map(_DRAWN.findall, pair), strict=False)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with an SPD run, texts and a tokenizer, under the names that the README uses."""
    folder = tmp_path_factory.mktemp("home")
    run = REPOSITORY / "tests/golden/spd/llama_simple_mlp_layerwise_vector_mlp"
    shutil.copytree(run, folder / "path/to/run")
    texts = ["".join(string.ascii_lowercase[(n * k) % 26] for k in range(40)) for n in range(1, 20)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["[EOS]", *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[EOS]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    [generated] = blocks("yaml")
    (folder / "gate.yaml").write_text(generated)
    return folder


@pytest.fixture(scope="module")
def outputs(home):
    """Exit code and output of each typed command, run in the order of the README in one home folder."""
    with StandIn(RuleKnower()) as api:
        return typed(home, {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": KEY})


def typed(home, model):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name not in ("SPD_OUT_DIR", "COLUMNS")}
    found = {}
    ids: dict[str, str] = {}
    environment |= {"HOME": str(home), "PATH": path} | model
    for command in TYPED:
        if command.line.startswith("export "):
            name, value = command.line.removeprefix("export ").split("=")
            environment[name] = value.replace("~", str(home))
        if command.line.startswith("unset "):
            del environment[command.line.removeprefix("unset ")]
        line = command.line
        for old, new in ids.items():
            line = line.replace(old, new)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        found[command.line] = done.returncode, done.stdout.replace(str(home), "~")
        ids |= drawn(command, done.stdout)
    return found


@pytest.mark.parametrize("command", TYPED, ids=lambda command: command.line)
def test_a_command_prints_what_the_readme_shows(outputs, command):
    code, output = outputs[command.line]
    assert code == 0, output
    printed = iter([comparable(line) for line in output.splitlines()])
    alike = near if command in OF_THE_DEMO else str.__eq__
    for line in command.shown:
        if line.strip() not in ("", CUT):
            found = any(alike(comparable(line), other) for other in printed)
            assert found, f"{line!r} is not there, or not in this order"


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_what_needs_several_machines_is_understood(line):
    """`tests/slurm` and `tests/integration` do these things; here the README's words for them are read."""
    program, *arguments = shlex.split(line)
    assert program == "spd-tools"
    assert build_parser().parse_args(arguments).handler


def test_what_is_made_is_made_by_ci():
    assert [command.line for command in MADE_BY_CI] == ["make demo", "make test"]
    assert {"make demo", "make test-all", "make check"} <= set((REPOSITORY / ".ci/run").read_text().splitlines())


def test_python_gives_what_the_readme_shows(outputs, home, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(home / "known"))
    session = doctest.DocTestParser().get_doctest("".join(blocks("python")), {}, "README.md", "README.md", 0)
    assert session.examples
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(session, out=report.append)
    assert failed == 0, "".join(report)


def test_every_command_is_in_the_table():
    table = README.split("## Commands")[1].split("\n\n")[1]
    first_column = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {words.split()[0] for cell in first_column for words in re.findall(r"`([^`]+)`", cell)}
    [choices] = [action.choices for action in build_parser()._actions if action.choices]
    assert named == set(choices) - BEING_BUILT


def test_links_lead_somewhere():
    files = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("https://")]
    assert [target for target in files if not (REPOSITORY / target).exists()] == []
