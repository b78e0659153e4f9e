"""`label`: what components are said to do, who says so, and who labels what."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import (
    Parser,
    Subparsers,
    positive_float,
    positive_int,
    share,
)
from spd_tools.cli.notes import add_noting, add_writing, author_of, notes_of, option
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.annotations import LabelRecord

_STATUSES = ("draft", "supported", "rejected")
_EFFECTS = ("raises", "lowers", "mixed", "none", "unknown")
_FIELDS = (
    "input_view",
    "output_view",
    "output_effect",
    "category",
    "confidence",
    "notes",
    "ruled_out",
    "evidence",
    "wants",
)
_KEY: dict[str, Any] = {"metavar": "KEY", "help": "component, for example h.0.mlp.c_fc:12"}


def add_commands(commands: Subparsers) -> None:
    """Add `label show|set|history|search|queue|claim|renew|release|disputed|export|import`."""
    label = commands.add_parser("label", help="read and write labels of components, and claim some to work on")
    group = label.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_reading(group)
    _add_set(group)
    _add_claiming(group)
    _add_files(group)


def _add_reading(group: Subparsers) -> None:
    one = add_noting(group, "show", _show, "the label of a component, or those of all")
    which = one.add_mutually_exclusive_group()
    which.add_argument("key", nargs="?", **_KEY)
    which.add_argument("--status", choices=_STATUSES, help="of all labels only these")
    history = add_noting(group, "history", _history, "all versions of a component's label, oldest first")
    history.add_argument("key", **_KEY)
    search = add_noting(group, "search", _search, "labels that hold all of some words")
    search.add_argument("query", metavar="WORD", nargs="+")
    search.add_argument("--limit", type=positive_int, default=20, metavar="N", help="longest list (default 20)")
    add_noting(group, "disputed", _disputed, "components about which authors contradict each other")


def _add_set(group: Subparsers) -> None:
    label = add_writing(group, "set", _set, "write a new version of a component's label")
    label.add_argument("key", **_KEY)
    label.add_argument("--input-view", required=True, metavar="TEXT", help="when it fires")
    option(label, "--output-view", metavar="TEXT", help="what it does to the model's predictions")
    option(label, "--output-effect", choices=_EFFECTS, help="on the logits of the tokens in the output view")
    option(label, "--category", metavar="NAME", help="kind of component, in a word or two")
    option(label, "--confidence", type=share, metavar="X", help="that the label is right, from 0 to 1")
    option(label, "--notes", metavar="TEXT", help="what is worth remembering")
    option(label, "--ruled-out", nargs="+", action="extend", metavar="TEXT", help="what else it might have been")
    option(label, "--evidence", nargs="+", action="extend", metavar="ID", help="results that it rests on")
    option(
        label, "--wants", choices=_STATUSES, help="supported: if its evidence is enough, else a draft (default draft)"
    )


def _add_claiming(group: Subparsers) -> None:
    queue = add_noting(group, "queue", _queue, "components worth labelling, most worthy first")
    queue.add_argument("--limit", type=positive_int, default=20, metavar="N", help="longest list (default 20)")
    claim = add_writing(group, "claim", _claim, "take the most worthy components that nobody works on")
    claim.add_argument("--n", type=positive_int, default=1, metavar="N", help="how many (default 1)")
    _add_lease(claim)
    renew = add_noting(group, "renew", _renew, "keep a claimed component for longer", author=True)
    renew.add_argument("key", **_KEY)
    _add_lease(renew)
    release = add_noting(group, "release", _release, "let others have a claimed component", author=True)
    release.add_argument("key", **_KEY)


def _add_lease(parser: Parser) -> None:
    parser.add_argument(
        "--lease-seconds", type=positive_float, default=1800.0, metavar="S", help="for how long (default 1800)"
    )


def _add_files(group: Subparsers) -> None:
    how: dict[str, Any] = {"choices": ("jsonl", "neuronpedia"), "default": "jsonl"}
    export = add_noting(group, "export", _export, "write all annotations, or the labels as Neuronpedia explanations")
    export.add_argument("file", metavar="FILE", type=Path)
    export.add_argument("--format", help="jsonl: everything (default); neuronpedia: labels", **how)
    export.add_argument("--model-id", metavar="ID", help="neuronpedia: the model's name there (default: the run id)")
    import_ = add_noting(
        group, "import", _import, "add the annotations of an export that are not here yet", author=True
    )
    import_.add_argument("file", metavar="FILE", type=Path)
    import_.add_argument("--format", help="jsonl: an export (default); neuronpedia: explanations, as drafts", **how)


# --- reading ----------------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    if args.key is None:
        _print_labels(args, notes.labels(args.status), "There is no label yet; `spd-tools label set` writes one.")
        return
    label = notes.label(args.key)
    if args.json:
        print_json(label)
    elif label is None:
        note(f"{args.key} has no label.")
    else:
        from spd_tools.render.labels import label_page

        show(label_page(label))


def _history(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    versions = notes.label_history(args.key)
    if args.json:
        print_json(versions)
    elif not versions:
        note(f"{args.key} has no label.")
    else:
        from spd_tools.render.labels import label_page

        show(*map(label_page, versions))


def _search(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    _print_labels(args, notes.search_labels(" ".join(args.query), args.limit), "No label holds all of these words.")


def _print_labels(args: argparse.Namespace, labels: list[LabelRecord], none: str) -> None:
    if args.json:
        print_json(labels)
    elif not labels:
        note(none)
    else:
        from spd_tools.render.labels import labels_table

        show(labels_table(labels))


def _disputed(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    disputes = notes.disputed()
    if args.json:
        print_json(disputes)
    elif not disputes:
        note("Nothing is disputed.")
    else:
        from spd_tools.render.labels import disputes_table

        show(disputes_table(disputes))


# --- writing ----------------------------------------------------------------------------------------------------------


def _set(args: argparse.Namespace) -> None:
    from spd_tools.annotations import LabelDraft

    _, notes = notes_of(args)
    draft = LabelDraft.of({name: getattr(args, name) for name in _FIELDS if hasattr(args, name)})
    decision = notes.set_label(args.key, draft, author=author_of(args), idempotency_key=args.idempotency_key)
    if args.json:
        print_json(decision)
    else:
        from spd_tools.render.labels import label_page

        show(label_page(decision.label))


def _queue(args: argparse.Namespace) -> None:
    harvest, notes = notes_of(args)
    items = notes.queue(harvest, args.limit)
    if args.json:
        print_json(items)
    else:
        from spd_tools.render.labels import queue_table

        show(queue_table(items))


def _claim(args: argparse.Namespace) -> None:
    harvest, notes = notes_of(args)
    leases = notes.claim(
        harvest,
        author=author_of(args),
        n=args.n,
        lease_seconds=args.lease_seconds,
        idempotency_key=args.idempotency_key,
    )
    if args.json:
        print_json(leases)
    elif not leases:
        note("Nothing is left to claim: everything that fires is labelled, or somebody works on it.")
    else:
        from spd_tools.render.labels import leases_table

        show(leases_table(leases))


def _renew(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    lease = notes.renew(args.key, author=author_of(args), lease_seconds=args.lease_seconds)
    if args.json:
        print_json(lease)
    else:
        note(f"{args.key} is yours until {lease.expires}.")


def _release(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    notes.release(args.key, author=author_of(args))
    if args.json:
        print_json({"released": args.key})
    else:
        note(f"{args.key} is free again.")


# --- files ------------------------------------------------------------------------------------------------------------


def _export(args: argparse.Namespace) -> None:
    if args.model_id is not None and args.format == "jsonl":
        raise SpdToolsError("--model-id is for --format neuronpedia; leave it out.")
    _, notes = notes_of(args)
    if args.format == "jsonl":
        n = notes.export_jsonl(args.file)
    else:
        n = notes.export_neuronpedia(args.file, model_id=args.model_id)
    if args.json:
        print_json({"file": str(args.file), "records": n})
    else:
        note(f"Exported {plural(n, 'record')} to {args.file}.")


def _import(args: argparse.Namespace) -> None:
    _, notes = notes_of(args)
    if args.format == "jsonl":
        report = notes.import_jsonl(args.file).model_dump(mode="json")
    else:
        report = {"added": {"label": notes.import_neuronpedia(args.file, author=author_of(args))}}
    if args.json:
        print_json(report)
    else:
        added = ", ".join(f"{n:,} {kind}" for kind, n in report["added"].items() if n) or "nothing"
        note(f"Imported: {added}.")
