"""The table policy: its law, its samples, its gradient and its fit, against sums written out here."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rsf.checks import same_counts
from rsf.finite import TablePolicy, jacobian


def policy(seed=0, symbols=3, length=3):
    rows = sum(symbols**t for t in range(length))
    return TablePolicy(np.random.default_rng(seed).normal(size=(rows, symbols)))


def test_the_law_is_the_product_of_the_rows_that_the_prefixes_choose():
    p = policy()
    rows = np.exp(p.logits) / np.exp(p.logits).sum(axis=1, keepdims=True)
    for string, probability in zip(p.strings, p.law(), strict=True):
        a, b, c = string
        assert probability == pytest.approx(rows[0, a] * rows[1 + a, b] * rows[4 + 3 * a + b, c], rel=1e-13)
    assert p.law().sum() == pytest.approx(1, abs=1e-14)


def test_samples_follow_the_law_and_not_that_of_another_table():
    p = policy()
    counts = np.bincount(p.sample(50_000, np.random.default_rng(1)), minlength=27)
    assert same_counts(counts, p.law()) and not same_counts(counts, policy(1).law())


def test_the_score_is_the_gradient_of_the_log_law():
    p = policy(symbols=2)
    numeric = jacobian(lambda flat: np.log(TablePolicy(flat.reshape(p.logits.shape)).law()), p.logits.ravel())
    assert_allclose(p.score(), numeric, atol=1e-9)
    assert_allclose(p.law() @ p.score(), 0, atol=1e-14)


def test_the_fit_reproduces_any_law_and_is_the_best_there_is():
    p, law = policy(), np.random.default_rng(2).dirichlet(np.ones(27))
    fitted = p.fitted(law)
    assert_allclose(fitted.law(), law, atol=1e-14)
    assert_allclose(law @ fitted.score(), 0, atol=1e-14)
    some = np.where(p.strings[:, 0] == 0, law, 0) / law[p.strings[:, 0] == 0].sum()
    assert_allclose(p.fitted(some).law(), some, atol=1e-14)


def test_rows_must_fit_a_number_of_symbols():
    with pytest.raises(ValueError, match=r"1, 4, 13, \.\.\. rows of logits, got 5"):
        TablePolicy(np.zeros((5, 3)))
