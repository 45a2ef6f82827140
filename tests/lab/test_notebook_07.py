"""Notebook 07: what its text says of the stored runs, and that they are what they claim to be."""

import copy

import numpy as np
import pytest

from rsf.acceptance import accept
from rsf.lab import arms, data, models, records, verdicts
from rsf.lab.report import whole_model

WRONG = ("1 - scoring / training", "scoring / training")
SMALL = {0.25: ("imdb-small-quarter",), 0.5: ("imdb-small-half",), 1.0: ("imdb-small", "imdb-small-twin")}


@pytest.fixture(scope="module")
def rows():
    return {(row.passes, row.arm): row for row in whole_model.rows()}


def stored(share):
    return {arm: runs for name in SMALL[share] for arm, runs in records.read(name).items()}


def test_the_whole_model_says_what_the_text_says(rows):
    for passes in (3, 1):
        row = rows[passes, "article"]
        assert row.minus_plain.high < 0 and row.word.startswith("refuted")
    nll = {key: row.mean("nll") for key, row in rows.items()}
    assert max(nll[3, "article"], nll[3, "twin"]) < nll[3, "random"] < nll[3, "plain"]
    assert nll[3, "random"] > (nll[3, "plain"] + nll[3, "article"]) / 2
    assert nll[1, "plain"] < nll[1, "article"]
    to_twin = verdicts.difference(rows[3, "article"].runs, rows[3, "twin"].runs)
    to_article = verdicts.difference(rows[3, "random"].runs, rows[3, "article"].runs)
    assert to_twin.low <= 0 <= to_twin.high and to_article.low <= 0 <= to_article.high
    assert rows[3, "twin"].minus_plain.high < 0  # so the lost steps are not needed for the loss
    mistakes = {key: whole_model.sure_mistakes(row) for key, row in rows.items()}
    assert mistakes[3, "plain"] > 0.5 > mistakes[3, "article"]
    assert [rows[3, arm].runs[300]["numbers"]["learning_rate"] for arm in ("plain", "article")] == [
        5e-5,
        1e-4,
    ]


@pytest.mark.parametrize("share", SMALL)
def test_the_small_runs_met_their_budget_and_their_accuracy_is_that_of_their_margins(share):
    whole = records.read("imdb-small")["plain"][0]["numbers"]["budget"]
    for runs in stored(share).values():
        for run in runs.values():
            numbers = run["numbers"]
            margin, label = np.array(numbers["test_margin"]), np.array(numbers["test_label"])
            sideless = np.mean(abs(margin) < 1e-4)  # they have four decimals
            assert abs(np.mean((margin > 0) == label) - numbers["accuracy"]) <= sideless + 1e-12
            assert 0 <= numbers["forward_passes"] - numbers["budget"] < 4 * 8
            assert abs(numbers["budget"] - share * whole) < 1


def test_decisions_are_those_of_the_recorded_losses_and_the_seed_s_coins():
    section = records.protocol("imdb-small")
    for seed, run in records.read("imdb-small")["article"].items():
        rule, coins = arms.rule_of("article", section), np.random.default_rng([seed, 0])
        tossed = [
            accept(rule.log_probability([criterion]), coins)[0]
            for criterion in run["numbers"]["decision_criterion"]
        ]
        same = np.array(tossed) == np.array(run["numbers"]["decision_kept"], dtype=bool)
        assert same.mean() > 0.99  # the losses are rounded to five digits


def test_a_seed_is_the_same_start_at_every_budget_and_at_a_quarter_the_twin_is_plain():
    first = np.array(
        [
            [stored(share)["article"][seed]["numbers"]["decision_criterion"][0] for seed in (0, 1, 2)]
            for share in (0.25, 1.0)
        ]
    )
    assert np.ptp(first, axis=0).max() < 2e-5 < 1e-4 < abs(np.diff(first)).min()
    quarter = stored(0.25)
    assert all(run["numbers"]["acceptance_rate"] == 1 for run in quarter["article"].values())
    for arm, apart in (("twin", False), ("article", True)):
        furthest = max(
            abs(
                np.subtract(run["numbers"]["test_margin"], quarter["plain"][seed]["numbers"]["test_margin"])
            ).max()
            for seed, run in quarter[arm].items()
        )
        assert (furthest > 0.05) if apart else (furthest < 1e-3)


def test_no_interval_of_the_small_runs_leaves_out_zero():
    for share in SMALL:
        runs = stored(share)
        for arm in set(runs) - {"plain"}:
            found = verdicts.difference(runs[arm], runs["plain"])
            assert found.low <= 0 <= found.high


def test_live_decisions_are_those_of_their_losses_and_coins():
    rng = np.random.default_rng(7)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    checkpoint = models.load("bert", 2, rng, source="embedded", **off)
    lower, upper = models.split_layers(checkpoint.model.double(), top=1)
    part = data.load("imdb", source="embedded").train.select(range(48))
    train = models.lower_outputs(lower, checkpoint.tokenizer, part["text"], part["label"], tokens=16)
    settings = records.protocol("imdb-small") | {"passes": 6, "learning_rate": 7e-4, "window": 16}
    for arm in ("article", "random"):
        told = []
        trainer = arms.fine_tune(
            copy.deepcopy(upper),
            train,
            arm,
            7,
            settings,
            models.pad_hidden,
            lambda block, criterion, kept, told=told: told.append((criterion[0], kept[0])),
        )
        rule = arms.rule_of(arm, settings)
        replayed = {7: [], 8: []}  # by seed: the run's, and another
        coins = {seed: np.random.default_rng([seed, 0]) for seed in replayed}
        for criterion, _ in told:
            for seed, generator in coins.items():
                replayed[seed].append(accept(rule.log_probability([criterion]), generator)[0])
            rule.observe([criterion])
        kept = [bool(was_kept) for _, was_kept in told]
        assert not all(kept) and replayed[7] == kept != replayed[8]
        report = trainer.loader.report
        assert trainer.spent == report.scored + 3 * report.trained and report.slack > 1e-12
        assert 0 <= trainer.spent - trainer.budget < 4 * settings["batch_size"]
