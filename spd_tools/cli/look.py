"""`overview`, `examples`, `tokens`, `correlations`, `similar`, `search`: looking at components."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import (
    Handler,
    Parser,
    Subparsers,
    add_command,
    add_run_options,
    non_negative_int,
    positive_float,
    positive_int,
    share,
)
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.annotations import LabelRecord
    from spd_tools.store.harvest import Harvest

_LIST_LENGTH = 20
_ORDER = "what the list is in the order of (default pmi)"


def add_commands(commands: Subparsers) -> None:
    """Add the commands that read a harvest."""
    overview = _add(commands, "overview", _overview, "everything about one component on one page")
    overview.add_argument(
        "--examples", type=non_negative_int, default=10, metavar="N", help="uniform and top examples (default 10)"
    )
    overview.add_argument(
        "--tokens", type=non_negative_int, default=10, metavar="N", help="tokens per list (default 10)"
    )
    overview.add_argument(
        "--components", type=non_negative_int, default=10, metavar="N", help="co-firing components (default 10)"
    )
    _add_context(overview)
    examples = _add(commands, "examples", _examples, "texts on which a component fires")
    examples.add_argument(
        "--kind", choices=("uniform", "top"), default="uniform", help="a fair sample (default), or the largest"
    )
    _add_limit(examples)
    _add_context(examples)
    tokens = _add(commands, "tokens", _tokens, "tokens that a component fires on, or that are predicted where it fires")
    side = "tokens it fires on (default), or that are predicted there"
    tokens.add_argument("--side", choices=("input", "output"), default="input", help=side)
    tokens.add_argument("--metric", choices=("recall", "precision", "lift", "pmi"), default="pmi", help=_ORDER)
    tokens.add_argument("--min-count", type=positive_float, metavar="N", help="leave out tokens with less (default 5)")
    _add_limit(tokens)
    correlations = _add(commands, "correlations", _correlations, "components that fire together with one")
    metrics = ("pmi", "jaccard", "precision", "recall")
    correlations.add_argument("--metric", choices=metrics, default="pmi", help=_ORDER)
    correlations.add_argument("--weakest", action="store_true", help="least instead of most")
    _add_limit(correlations)
    similar = _add(commands, "similar", _similar, "components with a similar read or write vector (needs the run)")
    similar.add_argument(
        "--direction", choices=("read", "write"), default="read", help="of which vector (default read)"
    )
    _add_limit(similar)
    _add_search(commands)


def _add(commands: Subparsers, name: str, handler: Handler, summary: str) -> Parser:
    parser = add_command(commands, name, handler, summary)
    parser.add_argument("key", metavar="KEY", help="component, for example h.0.mlp.c_fc:12")
    add_run_options(parser)
    return parser


def _add_limit(parser: Parser) -> None:
    parser.add_argument(
        "--limit", type=positive_int, default=_LIST_LENGTH, metavar="N", help=f"longest list (default {_LIST_LENGTH})"
    )


def _add_context(parser: Parser) -> None:
    parser.add_argument(
        "--context", type=non_negative_int, default=20, metavar="N", help="tokens to each side (default 20)"
    )


def _add_search(commands: Subparsers) -> None:
    search = add_command(commands, "search", _search, "find components by token, layer and density, or by label")
    add_run_options(search)
    search.add_argument("--label", metavar="WORDS", help="labels that hold all of these words, best first")
    token = search.add_mutually_exclusive_group()
    token.add_argument("--token", metavar="TEXT", help='text of one token, with its space: " the"')
    token.add_argument("--token-id", type=non_negative_int, metavar="ID", help="the same by its id")
    search.add_argument("--side", choices=("input", "output"), default="input", help="fires on it, or predicts it")
    search.add_argument("--min-count", type=positive_float, metavar="N", help="least count with the token (default 5)")
    search.add_argument("--layer", metavar="PATTERN", help='name or pattern: "h.0.*"')
    density = "share of tokens on which it fires, from 0 to 1"
    search.add_argument("--min-density", type=share, default=0.0, metavar="D", help=f"least {density}")
    search.add_argument("--max-density", type=share, default=1.0, metavar="D", help=f"largest {density}")
    search.add_argument(
        "--sort",
        choices=("index", "density", "recall", "precision", "lift", "pmi"),
        help="default: pmi with a token, else index",
    )
    search.add_argument("--ascending", action="store_true", help="smallest first")
    _add_limit(search)


def _open(args: argparse.Namespace) -> Harvest:
    from spd_tools.cli.harvest_options import open_chosen

    return open_chosen(args)


def _overview(args: argparse.Namespace) -> None:
    from spd_tools.analysis.overview import overview

    harvest = _open(args)
    found = overview(
        harvest,
        args.key,
        n_examples=args.examples,
        context=args.context,
        n_tokens=args.tokens,
        n_components=args.components,
    )
    if args.json:
        print_json(found)
    else:
        from spd_tools.render.overview import overview_page

        show(*overview_page(found, harvest.token_texts, _label(harvest, args.key)))


def _label(harvest: Harvest, key: str) -> LabelRecord | None:
    """A component's label; where labels cannot be read, what was counted is shown all the same, with a remark."""
    from spd_tools.annotations import Annotations

    try:
        return Annotations.of(harvest).label(key)
    except SpdToolsError as error:
        note(str(error))
        return None


def _examples(args: argparse.Namespace) -> None:
    harvest = _open(args)
    examples = harvest.examples(args.key, args.kind, args.limit, args.context)
    if args.json:
        print_json(examples)
    else:
        from spd_tools.render.lists import examples_page

        show(examples_page(harvest, args.key, args.kind, examples))


def _tokens(args: argparse.Namespace) -> None:
    harvest = _open(args)
    stats = harvest.token_stats(args.key, args.side)
    lists = stats.lists(args.metric, args.limit, args.min_count)
    if args.json:
        dropped = {"dropped_mass": stats.dropped_mass, "p_min": harvest.manifest.config.p_min}
        print_json({"key": args.key, "side": args.side, **(dropped if args.side == "output" else {})} | dict(lists))
    else:
        from spd_tools.render.lists import tokens_page

        show(tokens_page(harvest, args.key, stats, lists))


def _correlations(args: argparse.Namespace) -> None:
    harvest = _open(args)
    correlated = harvest.correlated(args.key, args.metric, args.limit, args.weakest)
    if args.json:
        print_json(correlated)
    else:
        from spd_tools.render.lists import correlations_page

        show(correlations_page(args.key, args.metric, args.weakest, correlated))


def _similar(args: argparse.Namespace) -> None:
    from spd_tools.analysis.similarity import similar_components
    from spd_tools.analysis.weights import decomposition_of

    harvest = _open(args)
    harvest.keys.flat(args.key)  # an unknown component is said before the weights are loaded
    decomposition = decomposition_of(harvest)
    similar = similar_components(decomposition, args.key, args.direction, args.limit)
    if args.json:
        print_json(similar)
    else:
        from spd_tools.render.lists import similar_page

        show(similar_page(args.key, args.direction, similar))


def _search(args: argparse.Namespace) -> None:
    from spd_tools.analysis.search import search
    from spd_tools.store.scores import MIN_COUNT

    harvest = _open(args)
    if args.label is not None:
        _search_labels(args, harvest)
        return
    result = search(
        harvest,
        token=args.token if args.token_id is None else args.token_id,
        side=args.side,
        layer=args.layer,
        min_density=args.min_density,
        max_density=args.max_density,
        min_count=MIN_COUNT if args.min_count is None else args.min_count,
        order=args.sort,
        ascending=args.ascending,
        limit=args.limit,
    )
    if args.json:
        print_json(result)
    else:
        from spd_tools.render.lists import search_page

        show(search_page(harvest, args.side, result))


def _search_labels(args: argparse.Namespace, harvest: Harvest) -> None:
    from spd_tools.annotations import Annotations

    others = (args.token, args.token_id, args.min_count, args.layer, args.sort)
    narrowed = args.min_density > 0 or args.max_density < 1 or args.side != "input" or args.ascending
    if narrowed or any(other is not None for other in others):
        raise SpdToolsError("A search by label knows no token, layer, density or order; leave those out.")
    labels = Annotations.of(harvest).search_labels(args.label, args.limit)
    if args.json:
        print_json(labels)
        return
    from spd_tools.render.labels import labelled_page

    show(labelled_page(harvest, labels))
