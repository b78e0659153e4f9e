"""Harvests, token files and doctor's checks as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.numbers import count, date, size
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, facts_table, plain_table, titled
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.doctor import Check
    from spd_tools.store.inventory import StoredHarvest
    from spd_tools.store.schema import Manifest
    from spd_tools.tokens import TokenCacheInfo

_STATE_STYLES = {"finished": "green", "unfinished": "yellow", "unreadable": "red"}
_VERDICTS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "problem": ("✗", "red")}


def runs_table(harvests: Sequence[StoredHarvest]) -> Table:
    """One line per harvest."""
    table = plain_table(["run", "harvest", "state"], right=["components", "tokens", "size", "changed"])
    for harvest in harvests:
        manifest = harvest.manifest
        add_cells(
            table,
            harvest.run_id,
            harvest.harvest_id,
            Text(harvest.state, _STATE_STYLES[harvest.state]),
            count(sum(n for _, n in manifest.decomposition.layers)) if manifest else "",
            count(manifest.counts.n_tokens) if manifest else "",
            size(harvest.bytes),
            date(harvest.modified),
        )
    return table


def harvest_details(harvest: StoredHarvest) -> RenderableType:
    """Everything that the manifest says about a harvest but its checksums."""
    facts = {"state": harvest.state, "folder": str(harvest.folder)}
    facts |= {"size": size(harvest.bytes), "changed": date(harvest.modified)}
    if harvest.problem is not None:
        facts["problem"] = harvest.problem
    if harvest.manifest is not None:
        facts |= _manifest_facts(harvest.manifest)
    return titled(f"{harvest.run_id}, harvest {harvest.harvest_id}", facts_table(facts), " ")


def _manifest_facts(manifest: Manifest) -> dict[str, str]:
    decomposition, counts = manifest.decomposition, manifest.counts
    choices = manifest.config.model_dump(mode="json")
    return {
        "reference": decomposition.reference,
        "data": f"{manifest.data.source} (token file {manifest.data.fingerprint})",
        "tokenizer": manifest.data.tokenizer or ("stored with it" if "tokenizer.json" in manifest.files else "none"),
        "tokens": f"{counts.n_tokens:,} in {plural(counts.n_rows, 'row')}",
        "firings": f"{counts.n_firings:,}, {counts.n_firings / max(1, counts.n_tokens):,.1f} per token",
        "pairs": f"{counts.n_pairs:,}",
        "logged": f"{plural(counts.n_logged_tokens, 'token')} in {plural(counts.n_logged_rows, 'row')}",
        "configuration": ", ".join(f"{name} {value}" for name, value in choices.items()),
        "layers": ", ".join(f"{name} {n:,}" for name, n in decomposition.layers),
    }


def caches_table(caches: Sequence[TokenCacheInfo]) -> Table:
    """One line per token file."""
    table = plain_table(["fingerprint", "data", "state"], right=["rows", "width", "tokens", "size"])
    for cache in caches:
        manifest = cache.manifest
        add_cells(
            table,
            cache.fingerprint,
            manifest.source if manifest else "",
            Text("finished", "green") if manifest else Text("unfinished", "yellow"),
            count(manifest.n_rows) if manifest else "",
            count(manifest.seq_len) if manifest else "",
            count(manifest.n_tokens) if manifest else "",
            size(cache.n_bytes),
        )
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """One line per check."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = _VERDICTS[check.verdict]
        table.add_row(Text(mark, style), Text(check.name), Text(visible(check.detail)))
    return table
