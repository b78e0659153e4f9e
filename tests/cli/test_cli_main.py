import argparse
import os
import subprocess
import sys

import pytest
import torch

from spd_tools import cli
from spd_tools.cli import main
from spd_tools.errors import SpdToolsError

HEAVY = {"torch", "numpy", "pyarrow", "pydantic", "rich", "numba", "tokenizers", "transformers", "datasets", "wandb"}


def process(*argv, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "spd_tools.cli", *argv], capture_output=True, **{"text": True, **options}
    )


def raising(error):
    """A build_parser whose command raises ``error``."""

    def handler(args):
        raise error

    class Parser:
        def parse_args(self, argv):
            return argparse.Namespace(handler=handler, json=False)

    return Parser


def test_help_imports_nothing_heavy():
    code = "import sys; from spd_tools.cli.parser import build_parser; build_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_help_is_exit_code_0():
    done = process("--help")
    assert done.returncode == 0
    assert "overview" in done.stdout


def test_no_command_is_exit_code_2(run):
    assert run()[0] == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SpdToolsError("This is wrong; do that."), 1, "This is wrong; do that."),
        (PermissionError(13, "Permission denied", "/some/file"), 1, "/some/file: Permission denied."),
        (MemoryError(), 1, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "not enough memory"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_sentence(monkeypatch, capsys, error, code, words):
    monkeypatch.setattr(cli, "build_parser", raising(error))
    assert main([]) == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_interrupt_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr(cli, "build_parser", raising(KeyboardInterrupt()))
    assert main([]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("bug", [AssertionError, RuntimeError, KeyError])
def test_our_own_bugs_are_not_hidden(monkeypatch, bug):
    monkeypatch.setattr(cli, "build_parser", raising(bug("bug")))
    with pytest.raises(bug):
        main([])


def test_a_reader_that_goes_away_is_quiet(harvest):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "spd_tools.cli", "overview", "h.0.mlp.c_fc:1", "--json"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_stdout_that_cannot_show_the_glyphs_still_gets_everything(harvest):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = process("examples", "h.0.mlp.c_fc:1", env=environment, encoding="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u23ce" in done.stdout  # the newline's glyph


def test_harvest_options_reach_the_request(monkeypatch, run):
    import spd_tools.harvest as harvest_package

    asked = {}

    def record(request, **how):
        asked.update(request=request, how=how)
        raise SpdToolsError("Enough.")

    monkeypatch.setattr(harvest_package, "run_harvest", record)
    options = "--n-batches all --batch-size 4 --data d --split s --column c --seq-len 8 --tokenizer t --packing cut"
    options += " --exclude-tokens 1 2 --device cpu --precision bf16 --world-size 3 --threshold 0.1 --p-min 0.01"
    options += " --n-uniform 5 --n-top 6 --window 7 --log-tokens 9 --seed 10 --memory-gb 0.5"
    assert run("harvest", "planted", *options.split(), "--rank", "1", "--resume")[0] == 1
    assert asked["how"] == {"rank": 1, "resume": True}
    assert asked["request"] == harvest_package.HarvestRequest(
        run="planted",
        n_batches=None,
        batch_size=4,
        data="d",
        split="s",
        column="c",
        seq_len=8,
        tokenizer="t",
        packing="cut",
        exclude_tokens=(1, 2),
        device="cpu",
        precision="bf16",
        world_size=3,
        threshold=0.1,
        p_min=0.01,
        n_uniform=5,
        n_top=6,
        window=7,
        log_tokens=9,
        seed=10,
        memory_gb=0.5,
    )


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--n-batches 3",
        "--batch-size 3",
        "--n-batches 0 --batch-size 3",
        "--n-batches some --batch-size 3",
        "--n-batches 1 --batch-size 3 --precision f16",
        "--n-batches 1 --batch-size 3 --threshold nan",
        "--n-batches 1 --batch-size 3 --rank -1",
    ],
)
def test_harvest_options_that_the_parser_refuses(run, options):
    code, out, _ = run("harvest", "planted", *options.split())
    assert (code, out) == (2, "")


def test_doctor_knows_this_machine(run, run_json):
    checks = {check["name"]: check for check in run_json("doctor")}
    assert checks["torch"]["verdict"] == "ok"
    assert checks["output folder"]["verdict"] == "ok"
    assert "torch" in run("doctor")[1]


def test_doctor_never_shows_a_credential(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    _, out, err = run("doctor")
    assert "WANDB_API_KEY is set" in out
    assert "very-secret" not in out + err


def test_doctor_fails_where_nothing_can_be_written(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "file"))
    code, out, err = run("doctor")
    assert code == 1
    assert "output folder" in err
    assert "cannot be written" in " ".join(out.split())


def test_doctor_mentions_what_a_killed_command_left(run, out_dir):
    (out_dir / ".abc.partial-1-2").mkdir(parents=True)
    assert ".abc.partial-1-2" in run("doctor")[1]


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        (["overview", "h.0.mlp:1", "--nonsense"], "spd-tools overview"),
        (["label", "show", "--nonsense"], "spd-tools label show"),
        (["runs", "show", "demo", "more"], "spd-tools runs show"),
    ],
)
def test_a_mistake_among_a_subcommands_arguments_shows_its_usage(run, line, usage):
    code, _, err = run(*line)
    assert code == 2
    assert err.startswith(f"usage: {usage} [-h]")
    assert "unrecognized arguments" in err


NEXT = [
    "runs",
    "runs show demo",
    "caches",
    "jobs",
    "label queue",
    "evidence",
    "hypothesis list",
    "search",
]


@pytest.mark.parametrize("line", NEXT)
def test_where_there_is_nothing_yet_one_sentence_says_what_to_type(run, line):
    _, out, err = run(*line.split())
    assert out == ""
    assert err.count("\n") == 1
    assert "`spd-tools " in err
    assert line in ("caches", "jobs") or "`spd-tools demo`" in err
