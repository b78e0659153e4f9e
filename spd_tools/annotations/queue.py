"""Which components are worth labelling next, and who works on which."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations.disputes import disputes
from spd_tools.annotations.inputs import shown
from spd_tools.annotations.records import Lease, QueueItem
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.store.harvest import Harvest

DISPUTED, UNLABELLED, DRAFT, DONE = 1.0, 0.8, 0.4, 0.0
"""How much a component needs a label."""
UNMEASURED = 0.5
"""Of an effect: that of the median component."""


@dataclass(frozen=True)
class Known:
    """What is written about the components, read at one time."""

    labels: dict[str, tuple[str, str, str]]
    """Key -> (id, status, author) of the newest label."""
    removal_kl: dict[str, tuple[float, str]]
    """Key -> (mean KL in nats when it is removed, id of the newest evidence that measured it)."""
    disputes: dict[str, str]
    leases: dict[str, Lease]
    """Those that have not run out."""

    @classmethod
    def read(cls, connection: sqlite3.Connection | None) -> Known:
        """All of it; nothing is known without a connection."""
        if connection is None:
            return cls({}, {}, {}, {})
        labels = connection.execute("SELECT key, id, status, author, max(version) FROM labels GROUP BY key")
        removals = connection.execute(
            "SELECT key, removal_kl, id, max(seq) FROM evidence WHERE removal_kl IS NOT NULL GROUP BY key"
        )
        return cls(
            {row["key"]: (row["id"], row["status"], row["author"]) for row in labels},
            {row["key"]: (row["removal_kl"], row["id"]) for row in removals},
            disputes(connection),
            {str(lease.key): lease for lease in leases(connection)},
        )


class Queue:
    """Components by priority.

    priority = need x (density term + effect term) / 2. Need: 1 disputed, 0.8 unlabelled, 0.4 draft, 0 supported.
    Density term: ln(1 + n_c) / ln(1 + T), so that a component that fires a hundred times as often does not count a
    hundredfold. Effect term: KL / (KL + median of all measured KLs), 0.5 where it has not been measured. Dead
    components and those whose label is supported and undisputed are left out.
    """

    def __init__(self, harvest: Harvest, known: Known) -> None:
        self._harvest = harvest
        self._known = known
        counts = np.asarray(harvest.firing_counts)
        n = len(counts)
        need = np.full(n, UNLABELLED)
        for key, (_, status, _) in known.labels.items():
            self._put(need, key, DONE if status == "supported" else DRAFT)
        for key in known.disputes:
            self._put(need, key, DISPUTED)
        kl = np.full(n, np.nan)
        for key, (value, _) in known.removal_kl.items():
            self._put(kl, key, value)
        density = np.log1p(counts) / np.log1p(harvest.n_tokens)
        self.priority: NDArray[np.float64] = need * (density + _effect_term(kl)) / 2
        self.priority[counts == 0] = 0
        order = np.argsort(-self.priority, kind="stable")
        self.order: NDArray[np.int64] = order[self.priority[order] > 0]
        """Flat indices, most worthy first."""

    def ranked(self) -> Iterator[str]:
        """Keys, most worthy first."""
        return (str(self._harvest.keys.key(int(flat))) for flat in self.order)

    def items(self, limit: int) -> list[QueueItem]:
        """The first ``limit``, with the reasons."""
        return [self._item(int(flat)) for flat in self.order[:limit]]

    def _put(self, values: NDArray[np.float64], key: str, value: float) -> None:
        try:
            values[self._harvest.keys.flat(key)] = value
        except SpdToolsError:
            # Annotations opened without a harvest take any key; one that is no component has no place in the queue.
            return

    def _item(self, flat: int) -> QueueItem:
        key = str(self._harvest.keys.key(flat))
        known = self._known
        _, status, author = known.labels.get(key, (None, None, None))
        kl, measured_by = known.removal_kl.get(key, (None, None))
        density = int(self._harvest.firing_counts[flat]) / self._harvest.n_tokens
        lease = known.leases.get(key)
        reasons = [f"fires on {100 * density:.3g} % of tokens"]
        if kl is None:
            reasons.append("its effect has not been measured")
        else:
            reasons.append(f"removing it changes the predictions by {kl:.3g} nats ({measured_by})")
        if key in known.disputes:
            reasons.append(f"disputed: {known.disputes[key]}")
        else:
            reasons.append("it has no label" if author is None else f"its label is a draft of {shown(author)[1:-1]}")
        if lease is not None:
            reasons.append(f"{shown(lease.author)[1:-1]} works on it until {lease.expires}")
        return QueueItem.model_validate(
            {
                "key": key,
                "priority": float(self.priority[flat]),
                "why": "; ".join(reasons),
                "density": density,
                "effect": kl,
                "status": status,
                "disputed": key in known.disputes,
                "lease": lease,
            }
        )


def leases(connection: sqlite3.Connection) -> list[Lease]:
    """Leases that have not run out, by time."""
    rows = connection.execute("SELECT * FROM leases WHERE ends > ? ORDER BY begins, key", (time.time(),))
    return [_lease(row) for row in rows]


def take(
    connection: sqlite3.Connection, queue: Queue, known: Known, author: str, n: int, seconds: float
) -> list[Lease]:
    """Lease the first ``n`` components that nobody works on and whose labels are still those that ``known`` saw."""
    begins = time.time()
    connection.execute("DELETE FROM leases WHERE ends <= ?", (begins,))
    held = {row["key"] for row in connection.execute("SELECT key FROM leases")}
    taken: list[Lease] = []
    for key in queue.ranked():
        if len(taken) == n:
            break
        if key not in held and _newest_id(connection, key) == known.labels.get(key, (None,))[0]:
            taken.append(_put_lease(connection, key, author, begins, seconds))
    return taken


def renew(connection: sqlite3.Connection, key: str, author: str, seconds: float) -> Lease:
    """Let a lease run ``seconds`` from now.

    Raises:
        SpdToolsError: when the author does not hold it any more.
    """
    _check_holder(connection, key, author)
    return _put_lease(connection, key, author, time.time(), seconds)


def release(connection: sqlite3.Connection, key: str, author: str) -> None:
    """Give a lease back.

    Raises:
        SpdToolsError: when the author does not hold it.
    """
    _check_holder(connection, key, author)
    drop(connection, key, author)


def drop(connection: sqlite3.Connection, key: str, author: str) -> None:
    """Remove the author's lease, if there is one."""
    connection.execute("DELETE FROM leases WHERE key = ? AND author = ?", (key, author))


def _effect_term(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    measured = ~np.isnan(kl)
    term = np.full(len(kl), UNMEASURED)
    if measured.any():
        values = np.maximum(kl[measured], 0)
        scale = float(np.median(values)) or float(values.max()) or 1.0
        term[measured] = values / (values + scale)
    return term


def _newest_id(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT id FROM labels WHERE key = ? ORDER BY version DESC LIMIT 1", (key,)).fetchone()
    return None if row is None else row["id"]


def _check_holder(connection: sqlite3.Connection, key: str, author: str) -> None:
    row = connection.execute("SELECT * FROM leases WHERE key = ? AND ends > ?", (key, time.time())).fetchone()
    if row is None:
        raise SpdToolsError(f"Nobody works on {key}, or the lease has run out; claim it again.")
    if row["author"] != author:
        lease = _lease(row)
        raise SpdToolsError(f"{shown(lease.author)} works on {key} until {lease.expires}; leave it to them until then.")


def _put_lease(connection: sqlite3.Connection, key: str, author: str, begins: float, seconds: float) -> Lease:
    connection.execute(
        "INSERT OR REPLACE INTO leases (key, author, begins, ends) VALUES (?, ?, ?, ?)",
        (key, author, begins, begins + seconds),
    )
    return _lease(connection.execute("SELECT * FROM leases WHERE key = ?", (key,)).fetchone())


def _lease(row: sqlite3.Row) -> Lease:
    return Lease.model_validate(
        {"key": row["key"], "author": row["author"], "created": _iso(row["begins"]), "expires": _iso(row["ends"])}
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
