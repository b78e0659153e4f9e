"""`probe`, `sweep`, `ablate` and the other experiments that run the model, and `replay`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from spd_tools.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_run_options,
    finite_float,
    non_negative_int,
    positive_int,
)
from spd_tools.cli.experiment_options import add_experiment, add_plot, run_experiment, working
from spd_tools.cli.notes import option
from spd_tools.cli.output import print_json, show
from spd_tools.errors import SpdToolsError

_BASES = ("random", "firing", "silent")
_RESPONSES = ("ranking", "gating", "firing")
_GROUPS = {"positive": "positives", "negative": "negatives", "near-miss": "near_misses"}


def add_commands(commands: Subparsers) -> None:
    """Add the experiments, in the order of an investigation, and `replay`."""
    _add_triage(commands)
    _add_observational(commands)
    probe = add_experiment(commands, "probe", "activations of a component on texts that you type")
    probe.add_argument("texts", metavar="TEXT", nargs="+", help="a text, or a row of the harvest: row:12")
    _add_sweep(commands)
    _add_occlusion(commands)
    _add_minimal_context(commands)
    _add_position(commands)
    _add_interact(commands)
    _add_ablate(commands)
    _add_direct_effect(commands)
    _add_generate_and_test(commands)
    replay = add_command(commands, "replay", _replay, "do an experiment again whose result is stored, and compare")
    replay.add_argument("id", metavar="ID", help="of the evidence, for example sweep-0123456789ab")
    add_run_options(replay)


def _add_triage(commands: Subparsers) -> None:
    triage = add_experiment(commands, "triage", "does a component fire, and does it matter: is it worth anybody's time")
    _add_counts(
        triage,
        n_sites="firings, of it and of each control (default 8)",
        n_controls="random components of like density, at least 19 (default 99)",
    )


def _add_observational(commands: Subparsers) -> None:
    enrichment = add_experiment(commands, "enrichment", "firing rate and size of a component on each token")
    _add_counts(enrichment, limit="tokens per list (default 20)")
    cofiring = add_experiment(
        commands, "cofiring", "does another component fire with it beyond what the token explains"
    )
    cofiring.add_argument("other", metavar="OTHER", help="component to compare with")


def _add_sweep(commands: Subparsers) -> None:
    sweep = add_experiment(commands, "sweep", "put each of some tokens into many contexts, beside tokens like them")
    _add_tokens(sweep, "--token", "tokens", "candidates: texts of one token each")
    _add_offset(sweep, "--offset", "which token is replaced: 0 the measured one (default), -1 the one before")
    _add_base(sweep, "--base", "contexts: any positions, where it fired, or where it did not (default random)")
    on = sweep.add_mutually_exclusive_group()
    option(on, "--on", metavar="TEXT", help="only positions of this token (before it is replaced)")
    option(on, "--on-id", dest="on", type=non_negative_int, metavar="ID", help="the same by its id")
    _add_counts(
        sweep,
        n_contexts="positions of the harvest (default 16)",
        n_controls="tokens like them that candidates are ranked among, at least 19, and 20 per candidate for each to "
        "be tested by itself (default 99)",
    )
    _add_response(sweep)
    add_plot(sweep, "a bar chart of the responses")


def _add_occlusion(commands: Subparsers) -> None:
    occlusion = add_experiment(
        commands,
        "occlusion",
        "replace one context token at a time: where the cause lies (at firings it always finds one: it tests no label)",
    )
    _add_base(occlusion, "--at", "positions where it fired (default), where it did not (finds what blocks it), or any")
    _add_tokens(occlusion, "--on", "on", "only positions of these tokens; silent positions need them")
    option(occlusion, "--window", type=positive_int, metavar="N", help="how far back, the token itself too (default 8)")
    _add_counts(
        occlusion,
        n_contexts="positions of the harvest (default 32)",
        n_draws="tokens put in, one after the other (default 8)",
    )
    _add_response(occlusion)


def _add_minimal_context(commands: Subparsers) -> None:
    minimal = add_experiment(
        commands, "minimal-context", "the shortest context and the fewest tokens that a firing needs"
    )
    option(
        minimal,
        "--place",
        dest="places",
        nargs="+",
        action="extend",
        metavar="PLACE",
        help="texts with «» around the token where it fires, or row:ROW:POSITION (default: random firings)",
    )
    _add_counts(minimal, n_contexts="random firings (default 12)", n_draws="random fillings of the rest (default 8)")
    option(minimal, "--share", type=finite_float, metavar="X", help="of the response that must be kept (default 0.8)")
    option(minimal, "--max-length", type=positive_int, metavar="N", help="longest context that is tried (default 16)")
    _add_response(minimal)


def _add_position(commands: Subparsers) -> None:
    position = add_experiment(commands, "position", "does it care where in the row it is, or how far away a cue is")
    option(
        position,
        "--mode",
        choices=("absolute", "distance"),
        help="absolute (default): a context is moved through the row; distance: a cue is moved away from it",
    )
    _add_base(position, "--at", "positions that contexts end at: where it fired, where it did not, or any")
    _add_tokens(position, "--on", "on", "only positions of these tokens")
    option(position, "--length", type=positive_int, metavar="N", help="absolute: tokens that are moved (default 4)")
    _add_counts(position, n_positions="absolute: positions tried, evenly over the row (default 12)")
    cue = position.add_mutually_exclusive_group()
    option(cue, "--cue", metavar="TEXT", help="distance: the token that is moved")
    option(cue, "--cue-id", dest="cue", type=non_negative_int, metavar="ID", help="the same by its id")
    option(position, "--max-distance", type=positive_int, metavar="N", help="distance: the farthest tried (default 6)")
    _add_counts(
        position,
        n_contexts="positions of the harvest (default 16)",
        n_draws="random fillings of what is replaced (default 4)",
        n_controls="distance: tokens like the cue that it is ranked among, at least 19 (default 39)",
    )
    _add_response(position)
    add_plot(position, "a curve of the responses")


def _add_interact(commands: Subparsers) -> None:
    interact = add_experiment(commands, "interact", "two tokens together against each alone: gates and conjunctions")
    for which, default in (("first", -1), ("second", 0)):
        option(
            interact,
            f"--{which}",
            dest=f"{which}_tokens",
            nargs="+",
            action="extend",
            required=True,
            metavar="TEXT",
            help="texts of one token each; those of one place are tested as a set",
        )
        _add_offset(interact, f"--{which}-offset", f"where it is put, from the measured token (default {default})")
    _add_base(interact, "--base", "contexts; mid: firings of medium strength (default random)", (*_BASES, "mid"))
    _add_counts(
        interact,
        n_contexts="positions of the harvest (default 16)",
        n_controls="tokens like those of each place, put there instead; at least 19, and 20 per pair for each to be "
        "tested by itself (default 39)",
    )
    _add_response(interact)
    add_plot(interact, "a heatmap of the interactions")


def _add_ablate(commands: Subparsers) -> None:
    ablate = add_experiment(commands, "ablate", "next-token logits when a component is removed, kept alone or set")
    option(
        ablate, "--mode", choices=("remove", "alone", "clamp"), help="default: remove; alone: all else of its layer off"
    )
    option(ablate, "--value", type=finite_float, metavar="X", help="clamp: the activation to set")
    option(ablate, "--where", choices=("everywhere", "site"), help="at every position of the row, or only at the site")
    _add_base(ablate, "--base", "sites: where it fired (default), where it did not, or any position")
    option(
        ablate, "--sign", choices=("any", "positive", "negative"), help="only firings with an activation of this sign"
    )
    _add_tokens(ablate, "--token", "tokens", "next tokens to test, which should all move the same way")
    _add_counts(
        ablate,
        n_sites="positions, for it and for each control (default 32)",
        n_controls="random components of like density, at least 19 (default 99)",
        limit="longest list of raised and of lowered tokens (default 10)",
    )


def _add_direct_effect(commands: Subparsers) -> None:
    direct = add_experiment(commands, "direct-effect", "next tokens that the write vector raises and lowers by itself")
    _add_counts(direct, limit="longest list of raised and of lowered tokens (default 10)")


def _add_generate_and_test(commands: Subparsers) -> None:
    test = add_experiment(
        commands, "generate-and-test", "does it fire where a label says, on texts written from the label"
    )
    test.set_defaults(handler=_generate_and_test)
    test.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="JSON or YAML: label, and positives, negatives and near_misses, each a list of texts",
    )
    option(test, "--label", metavar="TEXT", help="input view that the texts were written from, word for word")
    for group, what in (
        ("positive", "fires here; «» may enclose the word on which it does"),
        ("negative", "fires nowhere here (or not on the words in «»)"),
        ("near-miss", "chosen from the proposal, verbatim; without any, near misses are proposed"),
    ):
        option(test, f"--{group}", dest=_GROUPS[group], nargs="+", action="extend", metavar="TEXT", help=what)


def _generate_and_test(args: argparse.Namespace) -> None:
    if args.texts is not None:
        from spd_tools.cli.texts import read_texts

        label, groups = read_texts(args.texts)
        if label is not None and getattr(args, "label", label) != label:
            raise SpdToolsError(f"{args.texts} has a label and --label says another; leave one of them out.")
        if label is not None:
            args.label = label
        for group, texts in groups.items():
            setattr(args, group, [*texts, *getattr(args, group, [])])
    if not getattr(args, "positives", None):
        raise SpdToolsError("There are no positive texts; give some with --texts FILE or --positive TEXT.")
    if getattr(args, "label", None) is None:
        raise SpdToolsError(
            "Which label is tested is missing; give the input view that the texts were written from with --label TEXT, "
            "or as label in --texts FILE."
        )
    run_experiment(args)


def _replay(args: argparse.Namespace) -> None:
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.investigate import Investigation

    harvest = open_chosen(args)
    with working(f"{args.id} again"):
        again = Investigation(harvest).replay(args.id)
    if args.json:
        print_json(again)
    else:
        from spd_tools.render.experiments import replay_page

        show(*replay_page(again, harvest))
    if not again.holds:
        raise SpdToolsError(f"{args.id} did not come out again; do not build on it before you know why.")


# --- options of several experiments -----------------------------------------------------------------------------------


def _add_tokens(parser: Parser, name: str, field: str, what: str) -> None:
    """Tokens by their text, and by id those that no text names."""
    option(parser, name, dest=field, nargs="+", action="extend", metavar="TEXT", help=what)
    by_id = {"type": non_negative_int, "metavar": "ID", "help": "more of them, by their ids"}
    option(parser, f"{name}-id", dest=field, nargs="+", action="extend", **by_id)


def _add_offset(parser: Parser, name: str, what: str) -> None:
    option(parser, name, type=int, metavar="N", help=what)


def _add_base(parser: Parser, name: str, what: str, choices: Sequence[str] = _BASES) -> None:
    option(parser, name, choices=choices, help=what)


def _add_counts(parser: Parser, **counts: str) -> None:
    for field, what in counts.items():
        option(parser, f"--{field.replace('_', '-')}", type=positive_int, metavar="N", help=what)


def _add_response(parser: Parser) -> None:
    option(
        parser,
        "--response",
        choices=_RESPONSES,
        help="what is measured: activation (default), gate, or whether it fires",
    )
