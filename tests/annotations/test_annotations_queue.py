"""What is worth labelling, what is contested, and who works on what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from annotation_results import ABOVE, KEY, OTHER, ablated, draft, result_of, supported, swept

from spd_tools.annotations.queue import Known, Queue
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate
from spd_tools.experiments.triage import TriageRequest, TriageResult
from spd_tools.keys import KeySpace

DEAD = "h.1.mlp.c_fc:4"


def keys(items) -> list[str]:
    return [str(item.key) for item in items]


def kl(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value, n=20)


def found(notes, harvest, key):
    return next(item for item in notes.queue(harvest, 100) if str(item.key) == key)


def test_every_living_component_waits(notes, harvest):
    items = notes.queue(harvest, 100)
    assert set(keys(items)) == {str(key) for key in harvest.keys} - {DEAD}
    assert harvest.firing_counts[harvest.keys.flat(DEAD)] == 0


def test_denser_ones_come_first_when_nothing_else_is_known(notes, harvest):
    densities = [item.density for item in notes.queue(harvest, 100)]
    assert densities == sorted(densities, reverse=True)


def test_priority_is_the_formula(notes, harvest):
    notes.add_evidence(ablated(KEY, kl=kl(0.3)), author="ada")
    notes.add_evidence(ablated(OTHER, kl=kl(0.1)), author="ada")
    count = int(harvest.firing_counts[harvest.keys.flat(KEY)])
    density = np.log1p(count) / np.log1p(harvest.n_tokens)
    assert found(notes, harvest, KEY).priority == pytest.approx(0.8 * (density + 0.3 / (0.3 + 0.2)) / 2)
    notes.set_label(KEY, draft(), author="ada")
    assert found(notes, harvest, KEY).priority == pytest.approx(0.4 * (density + 0.3 / (0.3 + 0.2)) / 2)


def test_larger_effects_come_first(notes, harvest):
    before = keys(notes.queue(harvest, 100))
    first, second = before[:2]
    for key in before:
        notes.add_evidence(ablated(key, kl=kl(1.0 if key == second else 0.01)), author="ada")
    assert keys(notes.queue(harvest, 2)) == [second, first]


def test_the_newest_effect_counts(notes, harvest):
    for seed, value in enumerate((0.5, 0.25)):
        newest = notes.add_evidence(ablated(kl=kl(value), seed=seed), author="ada").id
    item = found(notes, harvest, KEY)
    assert item.effect == 0.25
    assert f"0.25 nats ({newest})" in item.why


def test_only_what_was_measured_by_removing_it_counts(notes, harvest):
    notes.add_evidence(ablated(kl=kl(0.5), mode="clamp"), author="ada")
    item = found(notes, harvest, KEY)
    assert item.effect is None
    assert "has not been measured" in item.why


def test_a_triage_measures_the_effect(notes, harvest):
    request = TriageRequest.model_validate({"key": KEY})
    options = {"n": 20, "effect": ABOVE, "control": ABOVE, "kind": "mixed", "verdict": "worth it"}
    notes.add_evidence(result_of(TriageResult, request, **options), author="ada")
    assert found(notes, harvest, KEY).effect == ABOVE.value


def test_supported_ones_are_done(notes, harvest):
    supported(notes)
    assert KEY not in keys(notes.queue(harvest, 100))


def test_a_draft_waits_behind_what_has_no_label(notes, harvest):
    first = keys(notes.queue(harvest, 1))[0]
    notes.set_label(first, draft(), author="ada")
    assert keys(notes.queue(harvest, 100))[0] != first
    item = found(notes, harvest, first)
    assert item.status == "draft"
    assert "a draft of ada" in item.why


def test_disputed_ones_come_first(notes, harvest):
    last = keys(notes.queue(harvest, 100))[-1]
    notes.set_label(last, draft(wants="rejected"), author="bob")
    item = found(notes, harvest, last)
    assert item.disputed
    assert "disputed: bob rejected its label" in item.why


def test_reasons_are_words_on_one_line(notes, harvest):
    notes.set_label(KEY, draft(category="\x1b[31m\n"), author="eve\x1b[2J")
    notes.claim(harvest, author="mal\nlory", n=14)
    for item in notes.queue(harvest, 100):
        assert item.why.isprintable()


def test_the_limit_of_the_queue(notes, harvest):
    assert len(notes.queue(harvest, 3)) == 3
    assert notes.queue(harvest, 0) == []
    with pytest.raises(SpdToolsError, match="limit"):
        notes.queue(harvest, -1)


def test_what_is_no_component_has_no_place(notes, harvest):
    """Annotations that were opened without a harvest take any key."""
    notes.set_label("h.9:0", draft(wants="rejected"), author="ada")
    assert "h.9:0" not in keys(notes.queue(harvest, 100))


def test_forty_thousand_components(monkeypatch):
    """No step of the ranking goes through all components one by one."""
    n = 40_000
    space = KeySpace({f"h.{layer}": n // 4 for layer in range(4)})
    counts = np.random.default_rng(0).integers(0, 1000, n)
    harvest = SimpleNamespace(keys=space, firing_counts=counts, n_tokens=10**6)
    asked = []
    monkeypatch.setattr(space, "flat", lambda key: asked.append(key))
    queue = Queue(harvest, Known({}, {}, {}, {}))  # pyright: ignore[reportArgumentType]
    assert asked == []
    assert len(queue.order) == np.count_nonzero(counts)
    assert (np.diff(queue.priority[queue.order]) <= 0).all()


# --- disputes ---------------------------------------------------------------------------------------------------------


def why(notes) -> str | None:
    listed = {str(dispute.key): dispute.why for dispute in notes.disputed()}
    assert listed.keys() <= {KEY}
    return listed.get(KEY)


def test_a_rejected_label_is_disputed_until_it_is_replaced(notes):
    notes.set_label(KEY, draft(), author="ada")
    assert why(notes) is None
    notes.set_label(KEY, draft(wants="rejected"), author="bob")
    assert why(notes) == "bob rejected its label"
    notes.set_label(KEY, draft(), author="ada")
    assert why(notes) is None


def test_categories_of_two_authors(notes):
    notes.set_label(KEY, draft(category="token"), author="ada")
    notes.set_label(KEY, draft(category="Token"), author="bob")
    assert why(notes) is None
    notes.set_label(KEY, draft(category="position"), author="bob")
    assert why(notes) == "bob calls it 'position' and ada 'token'"
    notes.set_label(KEY, draft(category="position"), author="ada")
    assert why(notes) is None


def test_raising_against_lowering(notes):
    notes.set_label(KEY, draft(output_effect="raises"), author="ada")
    notes.set_label(KEY, draft(output_effect="lowers"), author="bob")
    assert why(notes) == "bob says that it lowers its tokens and ada that it raises them"


def test_authors_may_change_their_own_mind(notes):
    notes.set_label(KEY, draft(category="token"), author="ada")
    notes.set_label(KEY, draft(category="position"), author="ada")
    assert why(notes) is None


def test_a_supported_label_outranks_a_draft(notes):
    notes.set_label(KEY, draft(category="token"), author="bob")
    supported(notes, category="position")
    assert why(notes) is None


def test_a_hypothesis_that_authors_judge_differently(notes):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.5, author="ada")
    found = notes.add_evidence(swept(), author="ada").id
    notes.update_hypothesis(proposed.id, status="supported", evidence=[found], author="ada")
    assert why(notes) is None
    notes.update_hypothesis(proposed.id, status="rejected", author="bob")
    assert why(notes) == f"ada holds {proposed.id} supported and bob rejected"
    notes.update_hypothesis(proposed.id, status="rejected", author="ada")
    assert why(notes) is None


# --- leases -----------------------------------------------------------------------------------------------------------


def test_claims_follow_the_queue(notes, harvest):
    expected = keys(notes.queue(harvest, 5))
    assert keys(notes.claim(harvest, author="ada", n=2)) == expected[:2]
    assert keys(notes.claim(harvest, author="bob", n=3)) == expected[2:]
    assert set(keys(notes.leases())) == set(expected)
    marked = notes.queue(harvest, 6)
    assert [item.lease.author if item.lease else None for item in marked] == ["ada"] * 2 + ["bob"] * 3 + [None]


def test_nobody_claims_what_is_not_there(notes, harvest):
    assert len(notes.claim(harvest, author="ada", n=100)) == 14
    assert notes.claim(harvest, author="bob") == []


def test_claims_of_many_never_meet(notes, harvest):
    with ThreadPoolExecutor(7) as pool:
        claims = list(pool.map(lambda n: notes.claim(harvest, author=f"a{n}", n=2), range(7)))
    claimed = [key for leases in claims for key in keys(leases)]
    assert len(claimed) == len(set(claimed)) == 14


def test_a_lease_runs_out(notes, harvest, stopped_clock):
    [first] = notes.claim(harvest, author="ada", lease_seconds=60)
    stopped_clock(59)
    assert notes.claim(harvest, author="bob")[0].key != first.key
    stopped_clock(1)
    assert first.key not in [lease.key for lease in notes.leases()]
    assert notes.claim(harvest, author="bob")[0].key == first.key
    with pytest.raises(SpdToolsError, match="bob' works on"):
        notes.renew(first.key, author="ada")


def test_a_lease_is_renewed(notes, harvest, stopped_clock):
    [lease] = notes.claim(harvest, author="ada", lease_seconds=60)
    stopped_clock(50)
    renewed = notes.renew(lease.key, author="ada", lease_seconds=60)
    assert renewed.expires > lease.expires
    stopped_clock(50)
    assert notes.leases() == [renewed]


def test_a_lease_is_released_by_its_author_only(notes, harvest):
    [lease] = notes.claim(harvest, author="ada")
    with pytest.raises(SpdToolsError, match="'ada' works on"):
        notes.release(lease.key, author="bob")
    notes.release(lease.key, author="ada")
    assert notes.leases() == []
    with pytest.raises(SpdToolsError, match="Nobody works on"):
        notes.release(lease.key, author="ada")


def test_a_label_gives_its_authors_lease_back(notes, harvest):
    [lease] = notes.claim(harvest, author="ada")
    notes.set_label(lease.key, draft(), author="bob")
    assert notes.leases() == [lease]
    notes.set_label(lease.key, draft(), author="ada")
    assert notes.leases() == []


def test_a_claim_is_made_once(notes, harvest):
    first = notes.claim(harvest, author="ada", n=2, idempotency_key="c1")
    assert notes.claim(harvest, author="ada", n=2, idempotency_key="c1") == first
    assert len(notes.leases()) == 2


def test_what_was_labelled_since_the_ranking_is_passed_over(notes, harvest, monkeypatch):
    best, second = keys(notes.queue(harvest, 2))
    known = notes._known()
    notes.set_label(best, draft(), author="bob")
    monkeypatch.setattr(notes, "_known", lambda: known)
    assert keys(notes.claim(harvest, author="ada")) == [second]


@pytest.mark.parametrize("fields", [{"n": 0}, {"n": 1001}, {"lease_seconds": 0}, {"lease_seconds": float("nan")}])
def test_claims_out_of_bounds(notes, harvest, fields):
    with pytest.raises(SpdToolsError):
        notes.claim(harvest, author="ada", **fields)
