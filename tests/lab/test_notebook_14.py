"""Notebook 14: what it says of wrong labels, groups and holes is what the stored runs and the listed world say."""

import json
import re

import matplotlib
import numpy as np
import pytest

from rsf import finite
from rsf.lab import arms, compact, models, notebooks, records, verdicts
from rsf.lab.models.last_layer import LastLayer
from rsf.lab.tasks import groups
from rsf.rules import tilted

matplotlib.use("Agg")

NAME = "14_see_who_is_rejected"
WRONG = ("gentle = 1.5", "gentle = 1.0")
RUNS = {arm: verdicts.of_arm("groups", arm) for arm in records.protocol("groups")["arms"]}


def printed():
    """What the stored cells print."""
    cells = json.loads((notebooks.NOTEBOOKS / f"{NAME}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(out.get("text", "")) for one in cells for out in one.get("outputs", []))


def names(*headings, slow=False):
    """The names that the set-up and the cells of some sections make, by how their headings begin."""
    made = {}
    section = ""
    for cell in notebooks.from_text(NAME).cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (.*)$", cell.source, re.MULTILINE)][-1]
        elif section.startswith(("What you'll be", *headings)) and (
            slow or "slow" not in cell.metadata.get("tags", [])
        ):
            exec(re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE), made)
    matplotlib.pyplot.close("all")
    return made


# the lab's task


def test_a_decision_s_a_is_that_of_the_rule_that_decided():
    rng = np.random.default_rng(3)
    bert = models.load("bert", 2, rng, source="embedded", hidden_dropout_prob=0.0)
    rows = [
        {"hidden": models.torch.as_tensor(rng.normal(size=(4, 384))), "label": int(i % 2), "index": 50 + i}
        for i in range(64)
    ]
    settings = records.protocol("mini-last") | {"unit": "example", "passes": 2, "rate_window": 16}
    for arm in ("article", "at_rate-0.5"):
        told = []
        rule = arms.rule_of(arm, settings)
        model = LastLayer(bert.model.double())
        trainer, seen = groups.watched(model, rows, arm, 1, settings)
        index, a, loss = map(np.array, zip(*seen, strict=True))
        assert set(index) == set(range(50, 114)) and len(seen) == trainer.loader.report.scored
        if arm == "article":
            np.testing.assert_array_equal(a, rule(loss))
        expected, spread = a.sum(), np.sqrt((a * (1 - a)).sum())
        assert abs(trainer.loader.report.kept - expected) < 4 * spread + 1, told


def test_what_no_decision_was_about_has_no_mean():
    found = groups.means([7, 7], [1.0, 2.0], [7, 8])
    assert found[0] == 1.5 and np.isnan(found[1])


def test_the_area_is_that_of_all_pairs():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, 60).astype(float)
    wrong = rng.random(60) < 0.3
    above = scores[wrong][:, None] - scores[~wrong]
    assert groups.auc(scores, wrong) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean(), abs=1e-12)


def test_losses_are_of_the_label_given():
    logits = np.array([[0.0, np.log(3.0)]])
    assert groups.losses(logits, np.array([0])) == pytest.approx([np.log(4.0)])


# the stored runs


def test_every_number_follows_from_the_scores_and_the_labels_of_its_run():
    section = records.protocol("groups")
    assert not records.missing("groups")
    for arm, runs in RUNS.items():
        for run in runs.values():
            numbers = run["numbers"]
            wrong = compact.unpack(numbers["wrong"], section["train"])
            assert wrong.sum() == round(section["flipped"] * section["train"])
            scores = compact.unpack_values(numbers["scores"])
            assert groups.auc(scores, wrong) == pytest.approx(numbers["auc"], abs=2e-3), arm
            right = compact.unpack(numbers["right"], section["test"])
            for inside, outside in numbers["groups"].values():
                assert inside[0] + outside[0] == (~wrong).sum() and inside[2] + outside[2] == len(right)
                assert inside[3] + outside[3] == right.sum()


def test_scores_of_one_training_share_its_answers_and_a_later_one_pays_for_looking_again():
    for seed, run in RUNS["mean-a"].items():
        watched, final = (RUNS[arm][seed]["numbers"] for arm in ("mean-loss", "final-loss"))
        assert run["numbers"]["right"] == watched["right"] == final["right"]
        assert (
            final["forward_passes"] - run["numbers"]["forward_passes"] == records.protocol("groups")["train"]
        )


def test_no_learning_rate_was_chosen_by_what_was_planted():
    tuned = records.protocol("groups-tuning")
    assert tuned["flipped"] == records.protocol("groups")["flipped"] > 0  # of what is validated on, too
    assert not set(tuned["seeds"]) & set(records.protocol("groups")["seeds"])
    for run in records.runs("groups-tuning"):
        right = 2000 * run["numbers"]["accuracy"]  # of those put aside
        assert right == pytest.approx(round(right), abs=1e-6)
        assert run["numbers"]["accuracy"] < 1 - tuned["flipped"] and "wrong" not in run["numbers"]


# the prose


def test_holm_is_the_textbook_s():
    holm = names("Does what is kept", "Whose reviews")["holm"]
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_what_the_prose_tells_of_wrong_labels_and_groups_is_what_the_stored_runs_say():
    made = names("Does what is kept", "Whose reviews")
    mean = {arm: np.mean(values) for arm, values in made["found"].items()}
    assert round(mean["mean-a"], 2) == 0.76 and mean["out-of-fold"] < mean["mean-loss"]
    assert 3.5 < made["cost"]["out-of-fold"] / made["cost"]["mean-loss"] < 4.5
    assert 0.75 < made["tied"][0] < 0.85 and 0.3 < made["tied"][1] < 0.37
    words = [verdicts.judged(contrast).judgement.word for contrast in verdicts.contrasts("groups")]
    assert words == ["refuted", "refuted", "refuted"]
    beyond = {
        what: {name for name, p in zip(made["more_kept"], made["p_of"][what], strict=True) if p < 0.05}
        for what in ("kept", "accuracy")
    }
    assert beyond == {"kept": {"long", "war", "drama"}, "accuracy": {"long"}}
    assert all(made["more_kept"][name].mean() > 0 for name in beyond["kept"])
    assert 0.4 < made["gained"]["long"].mean() < 0.7


def test_the_hole_is_what_the_list_says():
    policy = finite.TablePolicy(np.log([[0.3, 0.4, 0.2, 0.1]] * 21))
    made = names("What do rounds")
    exact, reward, hole = made["exact"], made["reward"], made["hole"]
    law, rate = policy.law(), 1.0
    for row in exact:
        assert row == pytest.approx([rate, law @ reward, law @ made["wanted"], law[hole].sum()], abs=1e-12)
        law, of_round = finite.accepted_law(law, tilted(1.0, 4.0)(reward))
        rate *= of_round
    assert exact[:, 2].argmax() == made["run"][:, 2].argmax() == 2 and (np.diff(exact[:, 1]) > 0).all()
    assert exact[-1, 2] < exact[0, 2] and exact[5, 3] > 0.5
    assert 27.5 < 1 / (made["rounds"](made["above"](3), 5)[-1, 3]) < 28.5
    for seed in range(5):  # and not only of this run
        run = made["rounds"](tilted(1.0, 4.0), 8, 4_000, np.random.default_rng(seed))
        assert run[:, 2].argmax() in (1, 2, 3) and run[-1, 2] < run[0, 2]


def test_what_the_prose_tells_of_the_live_training_is_what_it_printed():
    right, bad = map(
        int, re.search(r"last +third: kept (\d+) of 100 right labels, (\d+)", printed()).groups()
    )
    assert right == 17 and bad == 35 and "no difference in their rates beyond chance" in printed()
    shares = [int(share) for share in re.findall(r"reviews, +(\d+) % of them mislabelled", printed())]
    assert len(shares) == 3 and shares[2] > shares[0] and min(shares) > 0 and max(shares) < 100


def test_the_live_training_decides_nothing_near_a_tie():
    made = names("Which reviews", slow=True)
    assert made["trainer"].loader.report.slack > 1e-12
    assert min(np.abs(path - np.log(2)).min() for path in made["paths"]) > 1e-9
    for values in (made["clear"], -made["spread"][~made["wrong"]], made["mean_p"][made["wrong"]]):
        first, second = np.sort(values)[:2]
        assert second - first > 1e-9
    assert np.mean([one[-1] for one in made["believed"]]) > 0.95
    assert made["shown"].keys() == {"early", "late", "mislabelled"}
