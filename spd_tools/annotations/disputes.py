"""Which components are contested."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

from spd_tools.annotations.inputs import shown

_RANK = {"draft": 0, "supported": 1}


def disputes(connection: sqlite3.Connection) -> dict[str, str]:
    """Key -> why it is disputed, in words.

    A component is disputed when its newest label is rejected; when another author's last label is of another category,
    or says "raises" where the newest says "lowers", and the newest does not outrank it as supported against draft; and
    when one author holds a hypothesis about it supported that another holds rejected.
    """
    return {**_of_hypotheses(connection), **_of_labels(connection)}


def _of_labels(connection: sqlite3.Connection) -> dict[str, str]:
    # Next to a single max(), SQLite takes the other columns from the row that has it.
    rows = connection.execute(
        "SELECT key, author, status, category, output_effect, max(version) AS version FROM labels GROUP BY key, author"
    )
    by_key: dict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in rows:
        by_key[row["key"]].append(row)
    found = {key: _contested(sorted(last, key=lambda row: row["version"])) for key, last in by_key.items()}
    return {key: why for key, why in found.items() if why is not None}


def _contested(last: Sequence[sqlite3.Row]) -> str | None:
    """Why a component's labels contradict each other.

    Args:
        last: each author's last version, the newest one at the end.
    """
    newest = last[-1]
    if newest["status"] == "rejected":
        return f"{_by(newest)} rejected its label"
    for other in last[:-1]:
        if other["status"] == "rejected" or _RANK[newest["status"]] > _RANK[other["status"]]:
            continue
        ours, theirs = newest["category"].casefold(), other["category"].casefold()
        if ours and theirs and ours != theirs:
            return f"{_by(newest)} calls it {shown(newest['category'])} and {_by(other)} {shown(other['category'])}"
        if {newest["output_effect"], other["output_effect"]} == {"raises", "lowers"}:
            said, before = newest["output_effect"], other["output_effect"]
            return f"{_by(newest)} says that it {said} its tokens and {_by(other)} that it {before} them"
    return None


def _of_hypotheses(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT id, key, author, status, max(version) FROM hypotheses WHERE status != 'open' GROUP BY id, author"
    )
    holders: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        holders[row["key"], row["id"]][row["status"]] = _by(row)
    return {
        key: f"{held['supported']} holds {hypothesis} supported and {held['rejected']} rejected"
        for (key, hypothesis), held in holders.items()
        if {"supported", "rejected"} <= held.keys()
    }


def _by(row: sqlite3.Row) -> str:
    return shown(row["author"])[1:-1]
