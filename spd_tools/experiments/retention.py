"""How much of a response remains when only some tokens of a context are kept, and which are enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.places import Places
from spd_tools.experiments.records import Response
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.substitution import CorpusTokens, measure
from spd_tools.keys import ComponentKey

_LENGTHS_AT_ONCE = 4  # lengths of context that are tried in one go: batches of one length would be small


@dataclass(frozen=True)
class Retention:
    """Runs at some places with all but some tokens replaced.

    Sets of tokens are [.., steps] booleans: whether the token so many steps before the place is kept. What lies farther
    back than ``steps`` is replaced.
    """

    subject: Subject
    key: ComponentKey
    response: Response
    places: Places
    unchanged: NDArray[np.float32]
    """[places] responses; none of them 0."""

    @classmethod
    def of(
        cls, subject: Subject, key: ComponentKey, response: Response, places: Places, *, drop_silent: bool
    ) -> Retention:
        """Measure the responses of unchanged contexts.

        ``drop_silent``: leave places without a response out (a harvested firing may miss the threshold by a rounding
        error on another device) instead of refusing them.

        Raises:
            SpdToolsError: naming a place without a response, or when none has one.
        """
        found = measure(subject, key, response, places.position, lambda numbers: places.tokens[numbers])
        silent = found.response == 0
        if silent.all() or (silent.any() and not drop_silent):
            name = places.name[int(np.flatnonzero(silent)[0])]
            raise SpdToolsError(
                f"{key} has no {response} response at {name!r}, so there is nothing to keep; "
                "choose places where it fires."
            )
        some = np.flatnonzero(~silent)
        return cls(subject, key, response, places.some(some), found.response[some])

    @property
    def available(self) -> NDArray[np.int64]:
        """[places] tokens that a set may hold: all from the place back to where the row's counted tokens begin."""
        return self.places.position - self.places.lead + 1

    def share(
        self, which: NDArray[np.int64], kept: NDArray[np.bool_], n_draws: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """[sets, draws] shares of the unchanged responses, clipped to 0..1.

        Clipped, because otherwise one large response would make up for many that are gone.

        Args:
            which: [sets] numbers of places.
            kept: [sets, steps]
            n_draws: random fillings of the rest per set.
            rng: draws them.
        """
        run_place, run_kept = np.repeat(which, n_draws), np.repeat(kept, n_draws, 0)
        corpus = CorpusTokens(self.subject.harvest)
        seeds = rng.integers(0, 2**63, len(run_place))  # whatever the batches, a run has the same filling

        def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
            made = self.places.tokens[run_place[numbers]]
            for row, number in zip(made, numbers, strict=True):
                place = run_place[number]
                position, lead = int(self.places.position[place]), int(self.places.lead[place])
                fill = corpus.draw((position - lead + 1,), np.random.default_rng(seeds[number]))
                steps = np.flatnonzero(run_kept[number])
                at = position - steps[steps <= position - lead]
                own = row[at].copy()
                row[lead : position + 1] = fill
                row[at] = own
            return made

        found = measure(self.subject, self.key, self.response, self.places.position[run_place], rows)
        share = found.response.astype(np.float64) / self.unchanged[run_place]
        return share.clip(0, 1).reshape(len(which), n_draws)


def shortest_suffixes(
    retention: Retention, share: float, longest: int, n_draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """[places] fewest last tokens that keep a share of the response; -1 where ``longest`` tokens do not."""
    length = np.full(len(retention.places), -1, np.int64)
    reach = np.minimum(longest, retention.available)
    for start in range(0, int(reach.max()) + 1, _LENGTHS_AT_ONCE):
        open_places = np.flatnonzero((length < 0) & (reach >= start))
        if not len(open_places):
            break
        tried = np.arange(start, start + _LENGTHS_AT_ONCE)
        which = np.repeat(open_places, len(tried))
        tokens = np.tile(tried, len(open_places))
        inside = tokens <= reach[which]
        which, tokens = which[inside], tokens[inside]
        kept = np.arange(start + _LENGTHS_AT_ONCE) < tokens[:, None]
        enough = retention.share(which, kept, n_draws, rng).mean(1) >= share
        # Backwards, so that of several lengths that are enough the shortest is written last.
        length[which[enough][::-1]] = tokens[enough][::-1]
    return length


def smallest_sets(
    retention: Retention,
    kept: NDArray[np.bool_],
    which: NDArray[np.int64],
    share: float,
    n_draws: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """[sets, steps] sets from which no single token can be taken away without losing the share, found greedily.

    Args:
        retention: runs.
        kept: [sets, steps] sets that keep the share.
        which: [sets] numbers of their places.
        share: what must be kept.
        n_draws: fillings per trial.
        rng: draws them.
    """
    kept = kept.copy()
    active = np.flatnonzero(kept.any(1))
    while len(active):
        number, step = np.nonzero(kept[active])
        trials = kept[active[number]]
        trials[np.arange(len(trials)), step] = False
        shares = retention.share(which[active[number]], trials, n_draws, rng).mean(1)
        still: list[int] = []
        for at, one in enumerate(active):
            mine = np.flatnonzero(number == at)
            best = mine[np.argmax(shares[mine])]
            if shares[best] >= share:
                kept[one] = trials[best]
                if kept[one].any():
                    still.append(int(one))
        active = np.array(still, np.int64)
    return kept


def random_sets(retention: Retention, kept: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[places * n, steps] sets of as many other tokens of the context; all others where there are fewer.

    Args:
        retention: runs.
        kept: [places, steps] one set per place, steps reaching back to the beginning of the longest context.
        n: how many per place.
        rng: draws them.
    """
    keys = rng.random((len(kept), n, kept.shape[1]))
    back = np.arange(kept.shape[1])
    usable = (back < retention.available[:, None]) & ~kept
    keys[np.broadcast_to(~usable[:, None], keys.shape)] = np.inf
    rank = keys.argsort(2).argsort(2)
    wanted = np.minimum(kept.sum(1), usable.sum(1))[:, None, None]
    return (rank < wanted).reshape(-1, kept.shape[1])
