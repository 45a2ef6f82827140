"""The table policy: its law, its samples, its gradient and its fit, against sums written out here."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rsf.checks import same_counts
from rsf.finite import TablePolicy, jacobian


def policy(seed=0, symbols=3, length=3):
    rows = sum(symbols**t for t in range(length))
    return TablePolicy(np.random.default_rng(seed).normal(size=(rows, symbols)))


def test_strings_are_listed_once_each_in_dictionary_order():
    strings = policy(symbols=2, length=4).strings
    assert [int("".join(map(str, row)), 2) for row in strings] == list(range(16))


def test_the_law_is_the_product_of_the_rows_that_the_prefixes_choose():
    p = policy()
    rows = np.exp(p.logits) / np.exp(p.logits).sum(axis=1, keepdims=True)
    for string, probability in zip(p.strings, p.law(), strict=True):
        a, b, c = string
        assert probability == pytest.approx(rows[0, a] * rows[1 + a, b] * rows[4 + 3 * a + b, c], rel=1e-13)
    assert p.law().sum() == pytest.approx(1, abs=1e-14)
    assert_allclose(p.log_law(), np.log(p.law()), rtol=1e-13)


def test_a_single_symbol_is_a_softmax_and_large_logits_do_not_overflow():
    assert_allclose(TablePolicy([[1000.0, 1000.0 + np.log(3)]]).law(), [0.25, 0.75], rtol=1e-12)


def test_samples_follow_the_law_and_not_that_of_another_table():
    p = policy()
    counts = np.bincount(p.sample(50_000, np.random.default_rng(1)), minlength=27)
    assert same_counts(counts, p.law()) and not same_counts(counts, policy(1).law())


class HighestCoins:
    """A generator whose every coin is the largest that there is."""

    def random(self, size):
        return np.full(size, np.nextafter(1.0, 0.0))


def test_a_string_of_probability_0_is_never_drawn_whatever_the_coin():
    p = TablePolicy([[0.0, 0.0, 0.0]]).fitted([1, 3, 0])  # exp(log p) sums to 1 - 1e-16 here
    assert p.sample(1, HighestCoins()) == [1]


def test_the_score_is_the_gradient_of_the_log_law():
    p = policy(symbols=2)
    numeric = jacobian(lambda flat: TablePolicy(flat.reshape(p.logits.shape)).log_law(), p.logits.ravel())
    assert_allclose(p.score(), numeric, atol=1e-9)
    assert_allclose(p.law() @ p.score(), 0, atol=1e-14)


def test_the_fit_reproduces_any_law_and_is_the_best_there_is():
    p, law = policy(), np.random.default_rng(2).dirichlet(np.ones(27))
    fitted = p.fitted(law)
    assert_allclose(fitted.law(), law, atol=1e-14)
    assert_allclose(law @ fitted.score(), 0, atol=1e-14)
    nearby = [
        TablePolicy(fitted.logits + 0.1 * np.random.default_rng(seed).normal(size=fitted.logits.shape))
        for seed in range(5)
    ]
    assert all(law @ other.log_law() < law @ fitted.log_law() for other in nearby)


def test_the_fit_to_counts_is_their_shares_and_leaves_alone_what_they_do_not_reach():
    p, counts = policy(), np.zeros(27)
    counts[[0, 1, 8]] = 3, 1, 4  # 000 three times, 001 once, 022 four times: nothing begins with 1 or 2
    fitted = p.fitted(counts)
    assert_allclose(fitted.law(), counts / 8, atol=1e-15)
    reached = [0, 1, 4, 6]  # the empty prefix, 0, 00, 02
    kept = np.delete(np.arange(13), reached)
    assert (fitted.logits[kept] == p.logits[kept]).all() and np.isneginf(fitted.logits[reached]).any(
        axis=1
    ).all()


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((5, 3)),
        np.zeros((0, 3)),
        np.zeros((3, 1)),
        np.zeros(4),
        [[0, np.nan]],
        [[0, np.inf]],
        [[-np.inf, -np.inf]],
    ],
)
def test_what_is_no_table_is_refused(logits):
    with pytest.raises(ValueError, match="logits"):
        TablePolicy(logits)


@pytest.mark.parametrize(
    "weights", [np.ones(26), np.zeros(27), np.full(27, np.nan), np.full(27, np.inf), np.arange(27) - 5.0]
)
def test_weights_that_no_policy_fits_are_refused(weights):
    with pytest.raises(ValueError, match="27 finite weights"):
        policy().fitted(weights)


@pytest.mark.parametrize("symbols, length", [(2, 1), (2, 8), (4, 4), (5, 2)])
def test_a_law_of_any_size_lists_all_strings_and_sums_to_1(symbols, length):
    p = policy(3, symbols, length)
    assert len({*map(tuple, p.strings)}) == symbols**length and p.law().sum() == pytest.approx(1, abs=1e-13)
