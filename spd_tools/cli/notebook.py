"""`evidence`, `hypothesis` and `log`: what an investigation writes down on its way to a label."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Subparsers, positive_int, share
from spd_tools.cli.notes import add_noting, add_writing, author_of, notes_of, option
from spd_tools.cli.output import note, print_json, show

if TYPE_CHECKING:
    from spd_tools.annotations import Hypothesis

_STATUSES = ("open", "supported", "rejected")
_KEY: dict[str, Any] = {"metavar": "KEY", "help": "component, for example h.0.mlp.c_fc:12"}


def add_commands(commands: Subparsers) -> None:
    """Add `evidence`, `hypothesis add|update|list|history` and `log read|write`."""
    evidence = add_noting(commands, "evidence", _evidence, "results of experiments that are stored, newest first")
    evidence.add_argument("what", metavar="KEY|ID", nargs="?", help="of one component; or one result in full")
    evidence.add_argument("--experiment", metavar="NAME", help="only results of this one, for example sweep")
    _add_limit(evidence)
    _add_hypothesis(commands)
    log = commands.add_parser("log", help="read and write the research log")
    of_log = log.add_subparsers(title="commands", metavar="COMMAND", required=True)
    read = add_noting(of_log, "read", _read, "the last entries, oldest first")
    read.add_argument("key", nargs="?", **_KEY)
    _add_limit(read)
    write = add_writing(of_log, "write", _write, "add an entry, about a component or the run as a whole")
    write.add_argument("text", metavar="TEXT")
    write.add_argument("--key", **_KEY)


def _add_hypothesis(commands: Subparsers) -> None:
    hypothesis = commands.add_parser("hypothesis", help="propose what a component might do, and settle it")
    group = hypothesis.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = add_writing(group, "add", _add, "propose something")
    add.add_argument("key", **_KEY)
    add.add_argument("text", metavar="TEXT")
    add.add_argument("--confidence", type=share, required=True, metavar="X", help="that it is right, from 0 to 1")
    option(add, "--evidence", nargs="+", action="extend", metavar="ID", help="results that speak for it")
    update = add_writing(group, "update", _update, "add a version with another status, confidence or more evidence")
    update.add_argument("id", metavar="ID", help="for example h-0123456789ab")
    update.add_argument("--status", choices=_STATUSES)
    update.add_argument("--confidence", type=share, metavar="X")
    update.add_argument("--note", metavar="TEXT", help="why")
    option(update, "--evidence", nargs="+", action="extend", metavar="ID", help="results to add")
    listed = add_noting(group, "list", _list, "hypotheses as they stand")
    listed.add_argument("key", nargs="?", **_KEY)
    listed.add_argument("--status", choices=_STATUSES)
    history = add_noting(group, "history", _history, "all versions of a hypothesis, oldest first")
    history.add_argument("id", metavar="ID")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=positive_int, default=50, metavar="N", help="longest list (default 50)")


def _evidence(args: argparse.Namespace) -> None:
    harvest, notes = notes_of(args)
    if args.what is not None and ":" not in args.what:  # keys have a colon, ids have none
        from spd_tools.cli.experiment_options import show_result

        show_result(args, harvest, notes.evidence(args.what).result)
        return
    from spd_tools.investigate import corrected_p_values

    found = notes.list_evidence(args.what, args.experiment, args.limit)
    corrected = corrected_p_values(notes, found)
    if args.json:
        print_json([result.model_dump(mode="json") | {"p_corrected": corrected.get(result.id)} for result in found])
    elif not found:
        note("There is no evidence yet; `spd-tools probe`, `sweep`, `ablate` and the other experiments make some.")
    else:
        from spd_tools.render.labels import evidence_page

        show(evidence_page(found, corrected, harvest.harvest_id))


def _add(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    hypothesis = notes.add_hypothesis(
        args.key,
        args.text,
        confidence=args.confidence,
        evidence=getattr(args, "evidence", []),
        author=author_of(args),
        idempotency_key=args.idempotency_key,
    )
    _print(args, [hypothesis], hypothesis)


def _update(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    hypothesis = notes.update_hypothesis(
        args.id,
        status=args.status,
        confidence=args.confidence,
        note=args.note,
        evidence=getattr(args, "evidence", []),
        author=author_of(args),
        idempotency_key=args.idempotency_key,
    )
    _print(args, [hypothesis], hypothesis)


def _list(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    found = notes.hypotheses(args.key, args.status)
    _print(args, found, found)


def _history(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    found = notes.hypothesis_history(args.id)
    _print(args, found, found)


def _print(args: argparse.Namespace, shown: list[Hypothesis], document: Hypothesis | list[Hypothesis]) -> None:
    if args.json:
        print_json(document)
    elif not shown:
        note("None yet; `spd-tools hypothesis add` proposes one.")
    else:
        from spd_tools.render.labels import hypotheses_page

        show(hypotheses_page(shown))


def _read(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    entries = notes.research_log(args.key, args.limit)
    if args.json:
        print_json(entries)
    elif not entries:
        note("The research log is empty; `spd-tools log write TEXT` adds to it.")
    else:
        from spd_tools.render.labels import log_page

        show(log_page(entries))


def _write(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    entry = notes.add_log(args.text, key=args.key, author=author_of(args), idempotency_key=args.idempotency_key)
    if args.json:
        print_json(entry)
    else:
        note(f"Written: {entry.id}")
