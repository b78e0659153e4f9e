import numpy as np
import pytest
import torch

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import cached_rows
from spd_tools.training.data import FeatureBatches, TokenBatches
from spd_tools.training.distributed import World


def features(**changes):
    arguments = dict(
        n_features=6,
        feature_probability=0.2,
        generation="at_least_zero_active",
        low=0.0,
        batch_size=5000,
        eval_batch_size=10,
        seed=0,
    )
    return FeatureBatches(**(arguments | changes))


def dataset(n_rows=20, seq=4, short=0):
    rows = [[row, 1, 2, 3][: seq - 1 if row >= n_rows - short else seq] for row in range(n_rows)]
    return cached_rows(f"rows-{n_rows}-{short}", seq, 64, lambda: rows, "made up", None)


def tokens(data, **changes):
    arguments = dict(
        batch_size=4, eval_dataset=None, eval_batch_size=2, n_eval_steps=2, seed=0, shuffle_each_epoch=True
    )
    return TokenBatches(data, **(arguments | changes))


def test_features_are_active_with_their_probability_and_uniform():
    x = features().train(0)
    active = x[x != 0]
    assert float((x != 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert 0 < float(active.min()) < float(active.max()) < 1
    assert float(active.mean()) == pytest.approx(0.5, abs=0.02)


def test_features_from_below_zero():
    x = features(low=-1.0).train(0)
    assert float(x[x != 0].mean()) == pytest.approx(0.0, abs=0.04)


@pytest.mark.parametrize(("word", "n"), [("one", 1), ("two", 2), ("five", 5)])
def test_exactly_so_many_features_are_active(word, n):
    x = features(generation=f"exactly_{word}_active").train(0)
    assert ((x != 0).sum(1) == n).all()
    assert (x != 0).float().mean(0).tolist() == pytest.approx([n / 6] * 6, abs=0.04)


def test_more_active_features_than_there_are():
    with pytest.raises(SpdToolsError, match="needs more than 3 features"):
        features(generation="exactly_four_active", n_features=3)


def test_steps_and_ranks_differ_and_nothing_else_does():
    batches = features(batch_size=8)
    assert torch.equal(batches.train(3), features(batch_size=8).train(3))
    assert not torch.equal(batches.train(3), batches.train(4))
    first, second = (features(batch_size=8, world=World(rank, 2)).train(0) for rank in (0, 1))
    assert first.shape == (4, 6)
    assert not torch.equal(first, second)
    assert not torch.equal(batches.evaluation(0)[:8], batches.train(0))


def test_an_epoch_has_every_row_once_and_none_that_is_held_out():
    batches = tokens(dataset())
    epoch = torch.cat([batches.train(step)[:, 0] for step in range(4)]).tolist()
    held_out = torch.cat([batches.evaluation(index)[:, 0] for index in range(2)]).tolist()
    assert sorted(epoch + held_out) == list(range(20))


def test_epochs_are_shuffled_anew_unless_told_not_to():
    def epochs(**changes):
        batches = tokens(dataset(), **changes)
        return [torch.cat([batches.train(4 * epoch + step)[:, 0] for step in range(4)]).tolist() for epoch in (0, 1)]

    first, second = epochs()
    assert sorted(first) == sorted(second)
    assert first != second
    first, second = epochs(shuffle_each_epoch=False)
    assert first == second


def test_a_batch_may_span_two_epochs():
    batches = tokens(dataset(), batch_size=6)
    seen = torch.cat([batches.train(step)[:, 0] for step in range(8)]).tolist()
    assert np.unique(seen, return_counts=True)[1].tolist() == [3] * 16


def test_ranks_share_a_batch():
    whole = tokens(dataset()).train(1)
    shares = [tokens(dataset(), world=World(rank, 2)).train(1) for rank in (0, 1)]
    assert torch.equal(torch.cat(shares), whole)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(SpdToolsError, match="batch_size 4 cannot be shared by 3"):
        tokens(dataset(), world=World(0, 3)).train(0)


def test_short_rows_are_left_out():
    batches = tokens(dataset(short=4))
    rows = torch.cat([batches.train(step)[:, 0] for step in range(3)]).tolist()
    assert max(rows) < 16


def test_too_few_rows():
    with pytest.raises(SpdToolsError, match="has 1 full rows of 4 tokens, too few"):
        tokens(dataset(n_rows=1))


def test_evaluation_rows_of_another_split():
    batches = tokens(dataset(), eval_dataset=dataset(n_rows=3))
    assert batches.evaluation(0).tolist() == tokens(dataset(), eval_dataset=dataset(n_rows=3)).evaluation(0).tolist()
    epoch = torch.cat([batches.train(step)[:, 0] for step in range(5)]).tolist()
    assert sorted(epoch) == list(range(20))
