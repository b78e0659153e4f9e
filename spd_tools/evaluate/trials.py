"""Trials: what a judge is shown at once, with the truth. The first k of them do not depend on how many are made."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.dealing import Dealing, Hand, Shortage
from spd_tools.evaluate.negatives import NegativeKind
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.windows import Window
from spd_tools.keys import ComponentKey
from spd_tools.store.records import KeyField, Record
from spd_tools.store.scores import at_least, chosen

ScoreName = Literal["intruder", "detection", "fuzzing", "simulation"]
SCORES: tuple[ScoreName, ...] = ("intruder", "detection", "fuzzing", "simulation")
MIN_TRIALS = 5
"""Fewer good ones make no score."""


class Trial(Record):
    """Windows that are shown together, what is marked in them, and the truth."""

    id: str
    """Hash of the harvest and of all that is below."""
    score: ScoreName
    key: KeyField
    windows: list[Window]
    """"intruder": 5, one of them another component's; "detection" and "fuzzing": 10; "simulation": 1."""
    marks: list[list[int]]
    """Places of the tokens that the judge sees marked, window by window; none in a simulation."""
    truth: list[bool]
    """Window by window: is it the intruder ("intruder"); does the marked token fire the component ("detection"); are
    the marked tokens those that fire it ("fuzzing"). Empty in a simulation."""
    levels: list[float | None]
    """Simulation only, along the window's tokens: |ranking activation| at firings, in tenths of the effective maximum
    and at most 10; 0 where the component is silent, None at excluded positions."""
    negative_kinds: list[NegativeKind | None]
    """Window by window, "detection" only: where its negatives come from; None for positives."""
    decile: int | None
    """Simulation only: 0 to 9, of the marked token's |ranking activation| among the firings that are drawn from."""
    notes: list[str]
    """What the specification asks for and could not be had."""


class Trials(Record):
    """All trials of one component and score."""

    key: KeyField
    score: ScoreName
    trials: list[Trial]
    """Fewer than asked for where there is no material for more."""
    reason: str | None
    """One sentence: why there can be no score. No judge should be asked then."""
    notes: list[str]
    """Distinct notes of the trials."""


def make_trials(
    split: Split,
    key: str | ComponentKey,
    score: ScoreName,
    n_trials: int,
    seed: int = 0,
    seen: NDArray[np.int64] | None = None,
) -> Trials:
    """Trials of one component, from the log's scoring rows.

    Windows stand around firings drawn uniformly ("simulation": in turn from the deciles of |ranking activation|). No
    text comes twice, none stands on the labelling side too, and no window holds what is marked in another one of its
    trial.

    Args:
        split: of the harvest.
        key: the component.
        score: what the trials are for.
        n_trials: how many, if the log has material for so many.
        seed: of every choice; the same seed gives the same trials.
        seen: rows of the harvest that the author of the label may have seen (see ``origins.seen_rows``): no window
            stands in them, nor has the text of one that does.

    Raises:
        SpdToolsError: for an unknown component or score, or less than one trial.
    """
    chosen(score, SCORES, "score")
    at_least(n_trials, 1, "The number of trials")
    harvest = split.harvest
    key = harvest.keys.key(harvest.keys.flat(key))
    if not len(harvest.logged_rows):
        return _none(key, score, "The harvest has no firing log to take windows from; harvest again with a log.")
    dealing = Dealing(split, key, score, seed, seen)
    deal = {
        "intruder": dealing.intruder,
        "detection": dealing.detection,
        "fuzzing": dealing.fuzzing,
        "simulation": dealing.simulation,
    }[score]
    trials: list[Trial] = []
    shortage: str | None = None
    while len(trials) < n_trials:
        try:
            hand = deal(len(trials))
        except Shortage as short:
            shortage = str(short)
            break
        trials.append(_trial(harvest.harvest_id, key, score, hand))
    reason = None
    if shortage and len(trials) < MIN_TRIALS:
        reason = f"{key} has material for only {len(trials)} of the {MIN_TRIALS} trials that a score needs: {shortage}."
    notes = list(dict.fromkeys(note for trial in trials for note in trial.notes))
    return Trials(key=key, score=score, trials=trials, reason=reason, notes=notes)


def _trial(harvest_id: str, key: ComponentKey, score: ScoreName, hand: Hand) -> Trial:
    slips = hand.slips
    shown = [
        [str(slip.window.key), slip.window.row, slip.window.start, len(slip.window.token_ids), slip.marks, slip.truth]
        for slip in slips
    ]
    content = json.dumps([harvest_id, str(key), score, shown])
    return Trial(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        score=score,
        key=key,
        windows=[slip.window for slip in slips],
        marks=[slip.marks for slip in slips],
        truth=[] if score == "simulation" else [slip.truth for slip in slips],
        levels=hand.levels,
        negative_kinds=[slip.negative_kind for slip in slips],
        decile=hand.decile,
        notes=hand.notes,
    )


def _none(key: ComponentKey, score: ScoreName, reason: str) -> Trials:
    return Trials(key=key, score=score, trials=[], reason=reason, notes=[])
