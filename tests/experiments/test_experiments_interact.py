"""Interactions of tokens: conjunctions, gates and bigrams are recovered, everything else is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_subjects import key_of, planted, token_of

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, read_result, replay, run
from spd_tools.experiments.interact import MIDDLE, InteractResult

SMALL = {"n_contexts": 12, "n_controls": 3}


def interact(subject: Subject, name: str, first, second, **parameters) -> InteractResult:
    request = make_request(
        "interact", {"key": key_of(subject, name), "first_tokens": first, "second_tokens": second, **parameters}
    )
    found = run(subject, request)
    assert isinstance(found, InteractResult)
    return found


def planted_pairs(subject: Subject) -> list[tuple[str, str, str, int, float]]:
    """(rule, first token, second token, offset of the first, expected mean I) of every bigram, gate and conjunction."""
    rules = planted(subject).rule
    pairs: list[tuple[str, str, str, int, float]] = []
    for name in ("bigram-city-0", "bigram-city-1", "bigram-the", "bigram-number"):
        condition = rules(name).condition
        words = planted(subject).words
        pairs.append((name, words[min(condition.firsts)], words[min(condition.seconds)], -1, 1.5))
    for name in ("gate-colour", "gate-connective", "gate-determiner"):
        condition = rules(name).condition
        words = planted(subject).words
        wanted = min(condition.strengths)
        pairs += [
            (name, words[min(condition.blockers)], words[wanted], -back, -condition.strengths[wanted])
            for back in (1, 2, 3)
        ]
    for name in ("person-place", "number-noun", "negated-question"):
        condition = rules(name).condition
        words = planted(subject).words
        left, right = words[min(condition.left)], words[min(condition.right)]
        pairs += [(name, *pair, -back, 1.0) for back, pair in ((1, (left, right)), (3, (right, left)))]
    return pairs


def test_conjunctions_gates_and_bigrams_are_recovered(subjects):
    tried = found_ = 0
    for subject in subjects.values():
        for name, first, second, offset, expected in planted_pairs(subject):
            found = interact(subject, name, [first], [second], first_offset=offset, **SMALL)
            tried += 1
            found_ += found.p_value <= 0.05 and found.excludes_control and found.effect.value * expected > 0
            assert abs(found.effect.value) <= abs(expected) + 1e-6
    assert found_ >= 0.95 * tried


def test_at_most_18_of_200_null_tries_reach_5_percent(short_subjects):
    seen = 0
    rng = np.random.default_rng(0)
    for number in range(200):
        subject = short_subjects[number % 3]
        name = ("random", "late-random", "random-rare")[rng.integers(3)]
        first, second = rng.choice(np.arange(1, len(planted(subject).words)), 2, replace=False).tolist()
        offset = -int(rng.integers(1, 6))
        small = {"n_contexts": 8, "n_controls": 2, "seed": number}
        found = interact(subject, name, [first], [second], first_offset=offset, **small)
        seen += found.p_value <= 0.05
    assert seen <= 18


def test_heatmap_tells_the_pairs_apart(subject):
    condition = planted(subject).rule("number-noun").condition
    words = planted(subject).words
    numbers, nouns = sorted(condition.left), sorted(condition.right)
    stranger = token_of(subject, "monday")
    found = interact(subject, "number-noun", [numbers[0], stranger], nouns[:3], first_offset=-2)
    # Contexts may hold a number or a noun of their own, so no mean is exactly 1 or 0.
    assert np.array(found.heatmap) == pytest.approx(np.array([[1.0] * 3, [0.0] * 3]), abs=0.2)
    assert [pair.p_value <= 0.05 for pair in found.pairs] == [True] * 3 + [False] * 3
    assert [pair.second.text for pair in found.pairs[:3]] == [words[noun] for noun in nouns[:3]]
    assert found.effect.value == pytest.approx(np.mean(found.heatmap))


def test_interaction_is_what_four_runs_give(subject):
    rule = planted(subject).rule("gate-colour")
    condition = rule.condition
    blocker, wanted = min(condition.blockers), min(condition.strengths)
    found = interact(subject, "gate-colour", [blocker], [wanted], first_offset=-2, seed=3)
    # By the oracle, over the same base population.
    rows, positions = _sites(subject, 2, found.n, seed=3)
    values = []
    for row, position in zip(rows, positions, strict=True):
        tokens = subject.row(int(row)).tolist()
        f = {}
        for i in (False, True):
            for j in (False, True):
                changed = list(tokens)
                if i:
                    changed[position - 2] = blocker
                if j:
                    changed[position] = wanted
                f[i, j] = rule.activation(changed, int(position))
        values.append(f[True, True] - f[True, False] - f[False, True] + f[False, False])
    assert found.effect.value == pytest.approx(np.mean(values), abs=1e-6)


def _sites(subject: Subject, room: int, n: int, seed: int):
    from spd_tools.experiments.sites import sites

    request = make_request("probe", {"key": key_of(subject, "gate-colour"), "texts": ["x"], "seed": seed})
    found = sites(subject, request.key, "random", n, subject.rng(request, "contexts"), first=room)
    return found.row, found.position


def test_mid_bases_have_room_to_go_up_and_down(subject):
    key = key_of(subject, "late-position")
    found = interact(subject, "late-position", ["the"], ["fox"], first_offset=-2, second_offset=-1, base="mid")
    largest = subject.harvest.component(key).effective_max
    pair = found.pairs[0]
    assert MIDDLE[0] * largest <= pair.neither <= MIDDLE[1] * largest
    assert found.effect.value == 0
    assert found.p_value == 1


def test_a_base_that_does_not_exist_is_said(subject):
    with pytest.raises(SpdToolsError, match="25% and 75%"):
        interact(subject, "dead-impossible", ["the"], ["fox"], base="mid")


@pytest.mark.parametrize(
    ("first", "second", "offsets", "message"),
    [
        (["the"], ["fox"], (0, 0), "two different offsets"),
        (["the", "the"], ["fox"], (-1, 0), "given twice"),
        (["the fox"], ["fox"], (-1, 0), "not one token"),
        ([], ["fox"], (-1, 0), "first_tokens"),
        (["the"], ["fox"], (1, 0), "first_offset"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(subject, first, second, offsets, message):
    with pytest.raises(SpdToolsError, match=message):
        interact(subject, "always", first, second, first_offset=offsets[0], second_offset=offsets[1])


def test_results_replay_and_survive_json(subject):
    found = interact(subject, "bigram-the", ["the"], ["fox", "saw"], response="gating", **SMALL)
    assert read_result(found.model_dump_json()) == found
    assert replay(subject, found).identical
    assert torch.get_num_threads() == 1
