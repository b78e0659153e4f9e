"""`runs` and `caches`: what lies below SPD_OUT_DIR, and removing it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Parser, Subparsers, add_command
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.store.inventory import StoredHarvest
    from spd_tools.tokens import TokenCacheInfo


def add_commands(commands: Subparsers) -> None:
    """Add `runs [show|remove]` and `caches [remove]`."""
    runs = add_command(commands, "runs", _list, "list harvests, finished and unfinished")
    of_runs = runs.add_subparsers(metavar="[show|remove]")
    one = add_command(of_runs, "show", _show, "one run's harvests: data, configuration, counts, layers")
    one.add_argument("run", metavar="RUN")
    remove = add_command(of_runs, "remove", _remove, "remove a run's harvests")
    remove.add_argument("run", metavar="RUN")
    remove.add_argument("--harvest", metavar="ID", help="only this one")
    _add_yes(remove)
    caches = add_command(commands, "caches", _list_caches, "list tokenised data sets")
    of_caches = caches.add_subparsers(metavar="[remove]")
    remove_cache = add_command(of_caches, "remove", _remove_cache, "remove a tokenised data set")
    remove_cache.add_argument("fingerprint", metavar="FINGERPRINT")
    _add_yes(remove_cache)


def _add_yes(parser: Parser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _list(args: argparse.Namespace) -> None:
    from spd_tools.settings import Settings
    from spd_tools.store.inventory import HOW_TO_HARVEST, stored_harvests

    settings = Settings.from_environment()
    harvests = stored_harvests(settings)
    if args.json:
        print_json([_summary(harvest) for harvest in harvests])
    elif not harvests:
        note(f"There is no harvest in {settings.harvests_dir}; {HOW_TO_HARVEST}.")
    else:
        from spd_tools.render.inventory import runs_table

        show(runs_table(harvests))


def _show(args: argparse.Namespace) -> None:
    from spd_tools.settings import Settings
    from spd_tools.store.inventory import harvests_of

    harvests = harvests_of(Settings.from_environment(), args.run)
    if args.json:
        print_json([_details(harvest) for harvest in harvests])
    else:
        from spd_tools.render.inventory import harvest_details

        show(*map(harvest_details, harvests))


def _remove(args: argparse.Namespace) -> None:
    from spd_tools.render.numbers import size
    from spd_tools.settings import Settings
    from spd_tools.store.inventory import harvests_of, remove_harvests

    settings = Settings.from_environment()
    harvests = harvests_of(settings, args.run, args.harvest)
    for harvest in harvests:
        note(f"{harvest.folder}: {harvest.state}, {size(harvest.bytes)}")
    _confirm(args, f"Remove {len(harvests)} of run {harvests[0].run_id}")
    remove_harvests(harvests, settings)
    _say_removed(args, [harvest.harvest_id for harvest in harvests])


def _list_caches(args: argparse.Namespace) -> None:
    from spd_tools.tokens import list_token_caches

    caches = list_token_caches()
    if args.json:
        print_json([_cache(info) for info in caches])
    elif not caches:
        note("There are no tokenised data sets; `spd-tools prepare RUN` or a harvest makes them.")
    else:
        from spd_tools.render.inventory import caches_table

        show(caches_table(caches))


def _remove_cache(args: argparse.Namespace) -> None:
    from spd_tools.render.numbers import size
    from spd_tools.tokens import list_token_caches, remove_token_cache

    for info in list_token_caches():
        if info.fingerprint == args.fingerprint:
            note(f"{info.path}: {size(info.n_bytes)} (harvests keep their own copy of the rows that they counted)")
            _confirm(args, f"Remove the tokenised data set {args.fingerprint}")
    remove_token_cache(args.fingerprint)
    _say_removed(args, [args.fingerprint])


def _confirm(args: argparse.Namespace, what: str) -> None:
    """Ask on a terminal.

    Raises:
        SpdToolsError: when the answer is no, or nobody can be asked.
    """
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise SpdToolsError("Nothing was removed: nobody can be asked here, so say --yes.")
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise SpdToolsError("Nothing was removed.")


def _say_removed(args: argparse.Namespace, names: list[str]) -> None:
    if args.json:
        print_json({"removed": names})
    else:
        note(f"Removed {', '.join(names)}.")


def _summary(harvest: StoredHarvest) -> dict[str, Any]:
    manifest = harvest.manifest
    return {
        "run_id": harvest.run_id,
        "harvest_id": harvest.harvest_id,
        "folder": str(harvest.folder),
        "state": harvest.state,
        "problem": harvest.problem,
        "bytes": harvest.bytes,
        "modified": harvest.modified,
        "reference": manifest and manifest.decomposition.reference,
        "n_components": manifest and sum(n for _, n in manifest.decomposition.layers),
        "counts": manifest and manifest.counts.model_dump(mode="json"),
    }


def _details(harvest: StoredHarvest) -> dict[str, Any]:
    manifest = harvest.manifest
    return _summary(harvest) | {"manifest": manifest and manifest.model_dump(mode="json")}


def _cache(info: TokenCacheInfo) -> dict[str, Any]:
    return {
        "fingerprint": info.fingerprint,
        "folder": str(info.path),
        "bytes": info.n_bytes,
        "manifest": info.manifest and info.manifest.model_dump(mode="json"),
    }
