"""`evaluate`: scores of labels, with intervals and beside baselines."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import (
    Subparsers,
    add_command,
    finite_float,
    non_negative_int,
    positive_float,
    positive_int,
)
from spd_tools.cli.batches import add_settling_options, settle_batches
from spd_tools.cli.notes import option
from spd_tools.cli.output import note, print_json, show
from spd_tools.wording import by_number, plural

if TYPE_CHECKING:
    from spd_tools.evaluate.plan import EvaluationSettings
    from spd_tools.evaluate.runner import Evaluation, EvaluationSummary
    from spd_tools.llm import Ledger
    from spd_tools.store.harvest import Harvest

_SCORES = ("intruder", "detection", "fuzzing", "simulation")
_CHOICES = ("keys", "limit", "n_trials", "precision", "seed", "model")
"""Options that settings take as they are; those that were not given keep the settings' defaults."""


def add_commands(commands: Subparsers) -> None:
    """Add `evaluate`."""
    summary = "score labels on text that they were not made from, judged by a language model"
    parser = add_command(commands, "evaluate", _evaluate, summary)
    parser.add_argument("run", metavar="RUN", help="run id, or what it was harvested from")
    parser.add_argument("--harvest", metavar="ID", help="harvest id (default: the newest finished one)")
    what = parser.add_argument_group("what is scored")
    what.add_argument(
        "--score",
        type=_scores,
        metavar="NAMES",
        default=("detection", "fuzzing"),
        help=f"some of {','.join(_SCORES)} (default detection,fuzzing); intruder needs no labels",
    )
    option(what, "--keys", nargs="+", action="extend", metavar="KEY", help="components (default: all with a label)")
    option(what, "--limit", type=positive_int, metavar="N", help="the first N, by descending density")
    option(what, "--trials", dest="n_trials", type=positive_int, metavar="N", help="per component, score and label")
    option(what, "--precision", type=finite_float, metavar="X", help="stop early once an interval is within ±X")
    option(what, "--seed", type=non_negative_int, metavar="S", help="of all that is drawn (default 0)")
    what.add_argument("--no-baselines", dest="baselines", action="store_false", help="only the components' own labels")
    how = parser.add_argument_group("how (the key is read from ANTHROPIC_API_KEY)")
    option(how, "--model", metavar="M", help="the judge (default claude-haiku-5-5)")
    how.add_argument("--max-concurrent", type=positive_int, default=50, metavar="N", help="requests at once")
    how.add_argument("--budget", type=positive_float, metavar="USD", help="for this evaluation, earlier runs included")
    how.add_argument("--batch", action="store_true", help="message batches: half the price, within 24 hours")
    add_settling_options(how)
    how.add_argument("--report", type=Path, metavar="FILE.html", help="write the report as one page, too")
    how.add_argument("--estimate", action="store_true", help="only say what it would cost")


def _scores(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in _SCORES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{unknown[0] if unknown else text!r} is not one of {', '.join(_SCORES)}")
    return names


def _evaluate(args: argparse.Namespace) -> None:
    from spd_tools.annotations import Annotations
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.evaluate.plan import settings_of
    from spd_tools.evaluate.report import make_report
    from spd_tools.evaluate.runner import Evaluation
    from spd_tools.llm import Ledger

    harvest = open_chosen(args)
    settle_batches(args, harvest)
    given = {name: getattr(args, name) for name in _CHOICES if hasattr(args, name)}
    settings = settings_of(harvest, scores=args.score, baselines=args.baselines, **given)
    evaluation = Evaluation(harvest, Annotations.of(harvest), settings)
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    if args.estimate:
        _estimate(args, evaluation, ledger)
        return
    summary = _run(args, evaluation, settings, ledger)
    report = make_report(harvest, settings, spending=ledger.spending(settings.id))
    if args.report is not None:
        from spd_tools.evaluate.report_html import write_report

        write_report(report, args.report)
    if args.json:
        print_json({"summary": summary, "report": report})
        return
    from spd_tools.render.evaluation import evaluation_page

    show(*evaluation_page(report, summary))
    _remarks(args, harvest, summary)


def _run(
    args: argparse.Namespace, evaluation: Evaluation, settings: EvaluationSettings, ledger: Ledger
) -> EvaluationSummary:
    from spd_tools.llm import BatchSettings, CallBar, LanguageModel

    with CallBar("judging", None if settings.precision else evaluation.most_calls) as bar:
        model = LanguageModel(
            ledger, job=settings.id, max_concurrent=args.max_concurrent, budget=args.budget, progress=bar
        )
        return asyncio.run(evaluation.run(model, BatchSettings() if args.batch else None))


def _estimate(args: argparse.Namespace, evaluation: Evaluation, ledger: Ledger) -> None:
    from spd_tools.llm import estimate

    sample = evaluation.sample()
    found = asyncio.run(estimate(sample, evaluation.most_calls, ledger=ledger, batch=args.batch))
    if args.json:
        print_json(found)
        return
    from spd_tools.render.estimate import estimate_text

    show(estimate_text(found, "calls at most"))


def _remarks(args: argparse.Namespace, harvest: Harvest, summary: EvaluationSummary) -> None:
    if summary.not_sent is not None:
        note(f"{plural(summary.n_left, 'score')} {by_number(summary.n_left, 'is', 'are')} left. {summary.not_sent}")
    if summary.n_failed_trials:
        n = summary.n_failed_trials
        note(f"{plural(n, 'trial')} failed; the same command asks {by_number(n, 'it', 'them')} again.")
    if args.report is not None:
        note(f"Report: {args.report}")
    note(f"Look at a component: spd-tools overview KEY --run {harvest.run_id}")
