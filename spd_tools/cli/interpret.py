"""`interpret`: labels for the components of a run, by a language model or, as a baseline, without one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Subparsers, add_command, positive_float, positive_int
from spd_tools.cli.batches import add_settling_options, settle_batches
from spd_tools.cli.notes import option
from spd_tools.cli.output import note, print_json
from spd_tools.errors import SpdToolsError
from spd_tools.wording import by_number, plural

if TYPE_CHECKING:
    from spd_tools.interpret import InterpretReport, InterpretRequest
    from spd_tools.llm import Estimate

_CHOICES = ("keys", "layer", "limit", "order", "again")
_OF_MODELS = ("model", "prompt", "max_concurrent", "budget", "batch")
"""Options that a request takes as they are; those that were not given keep the request's defaults."""
_SHOWN_FAILURES = 10


def add_commands(commands: Subparsers) -> None:
    """Add `interpret`."""
    parser = add_command(commands, "interpret", _interpret, "have components labelled by a language model, as drafts")
    parser.add_argument("run", metavar="RUN", help="run id, or what it was harvested from")
    parser.add_argument("--harvest", metavar="ID", help="harvest id (default: the newest finished one)")
    which = parser.add_argument_group("which components (default: all that fired)")
    option(which, "--keys", nargs="+", action="extend", metavar="KEY", help="these, in this order")
    option(which, "--layer", metavar="PATTERN", help='name or pattern: "h.0.*"')
    option(which, "--order", choices=("density", "index"), help="densest first (default), or layer by layer")
    option(which, "--limit", type=positive_int, metavar="N", help="the first N, labelled already or not")
    option(which, "--again", action="store_true", help="also those that this model and prompt labelled before")
    how = parser.add_argument_group("how (the key is read from ANTHROPIC_API_KEY)")
    option(how, "--model", metavar="M", help="language model (default claude-haiku-5-5)")
    option(how, "--prompt", choices=("detects", "roles"), help="what it detects (default), or input and output role")
    option(how, "--max-concurrent", type=positive_int, metavar="N", help="requests at once (default 50)")
    option(how, "--budget", type=positive_float, metavar="USD", help="in all, for this model and prompt")
    option(how, "--batch", action="store_true", help="message batches: half the price, within 24 hours")
    add_settling_options(how)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--estimate", action="store_true", help="only say what it would cost")
    instead.add_argument("--baseline", action="store_true", help="list top tokens instead, without a language model")


def _interpret(args: argparse.Namespace) -> None:
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.interpret import estimate_interpretation, label_by_top_tokens, run_interpretation

    request = _request(args)
    harvest = open_chosen(args)
    settle_batches(args, harvest)
    if args.estimate:
        _show_estimate(args, estimate_interpretation(harvest, request))
    elif args.baseline:
        _show_report(args, label_by_top_tokens(harvest, request))
    else:
        _show_report(args, run_interpretation(harvest, request))


def _request(args: argparse.Namespace) -> InterpretRequest:
    from spd_tools.interpret import InterpretRequest

    given = {name: getattr(args, name) for name in (*_CHOICES, *_OF_MODELS) if hasattr(args, name)}
    if args.baseline and (idle := [name for name in (*_OF_MODELS, "again") if name in given]):
        raise SpdToolsError(f"--baseline asks no language model; leave out --{idle[0].replace('_', '-')}.")
    if "keys" in given and "order" in given:
        raise SpdToolsError("--keys come in the order in which you write them; leave out --order.")
    return InterpretRequest(**given)


def _show_estimate(args: argparse.Namespace, estimate: Estimate | None) -> None:
    if args.json:
        print_json(estimate)
    elif estimate is None:
        note("There is nothing left to ask.")
    else:
        from spd_tools.cli.output import show
        from spd_tools.render.estimate import estimate_text

        show(estimate_text(estimate, "calls"))


def _show_report(args: argparse.Namespace, report: InterpretReport) -> None:
    if args.json:
        print_json(report)
        return
    note(_labelled_sentence(report))
    for failure in report.failures[:_SHOWN_FAILURES]:
        note(f"{failure.key} has no label: {failure.reason}")
    if len(report.failures) > _SHOWN_FAILURES:
        n = len(report.failures) - _SHOWN_FAILURES
        note(f"{n:,} more {by_number(n, 'has', 'have')} none; --json lists all.")
    if report.not_sent is not None:
        note(f"{report.n_not_sent:,} {by_number(report.n_not_sent, 'was', 'were')} not asked about. {report.not_sent}")
    if report.n_supported:
        has = by_number(report.n_supported, "has", "have")
        note(f"{report.n_supported:,} {has} a supported label, which was left as it is.")
    if report.n_labelled and report.results is not None:
        note(f"Results: {report.results}")
    note(f"Look at them: spd-tools label show --run {report.run_id}")


def _labelled_sentence(report: InterpretReport) -> str:
    were = by_number(report.n_labelled, "was", "were")
    parts = [f"{report.n_labelled:,} of {plural(report.n_chosen, 'component')} {were} labelled by {report.labeller}"]
    if report.n_known:
        parts.append(f"{report.n_known:,} had a label before")
    if report.n_unclear:
        parts.append(f"{report.n_unclear:,} {by_number(report.n_unclear, 'is', 'are')} unclear")
    if report.prompt is not None:
        parts.append(f"${report.dollars:,.4f} paid")
    if report.unknown_dollars:
        parts.append(f"at most ${report.unknown_dollars:,.4f} more for requests of unknown outcome")
    return ", ".join(parts) + "."
