"""The experiment of notebook 10: sums, judges, a model in float64 from NumPy's weights, arms that spend the same."""

import itertools

import numpy as np
import pytest
import torch

from rsf import checks
from rsf.lab import records
from rsf.lab.tasks import addition, arithmetic

SMALL = {"numbers": 40, "pool": 48, "validation": 8, "test": 16, "steps": 12, "base_steps": 4, "rounds": 2}
SMALL |= {
    "base_learning_rate": 1e-3,
    "base_weight_decay": 1.0,
    "grid_learning_rate": [1e-3, 1e-2],
    "grid_weight_decay": [1.0],
}


@pytest.fixture
def small(monkeypatch):
    """An experiment that takes a second."""
    monkeypatch.setattr(arithmetic.records, "protocol", lambda experiment: SMALL)
    addition.base.cache_clear()
    yield SMALL
    addition.base.cache_clear()


def test_an_answer_is_the_sum_with_its_ones_first_and_one_digit_more_than_its_terms():
    assert [addition.answer(prompt) for prompt in ("47+85=", "03+04=", "999+001=")] == [
        "231",
        "700",
        "0001",
    ]


def test_places_are_all_sums_once_each():
    every = addition.sums(range(10**4))
    assert len(set(every)) == 10**4 and (every[0], every[4785], every[-1]) == ("00+00=", "47+85=", "99+99=")
    assert addition.sums([123045], digits=3) == ["123+045="]


def test_the_verifier_passes_one_completion_and_casting_out_nines_one_number_in_nine():
    every = ["".join(three) for three in itertools.product("0123456789+=", repeat=3)]
    passed = np.array([judge(["47+85="] * len(every), every) for judge in (addition.right, addition.nines)])
    assert [every[i] for i in np.flatnonzero(passed[0])] == ["231"]
    fooled = {text for text, one in zip(every, passed[1], strict=True) if one}
    assert (
        "231" in fooled and "321" in fooled and len(fooled) == 111 and all(text.isdigit() for text in fooled)
    )


def test_a_noisy_judge_turns_its_share_of_verdicts_round_both_ways():
    prompts, half = ["47+85="] * 4000, ["231", "000"] * 2000
    turned = np.array(addition.noisy(0.1, np.random.default_rng(0))(prompts, half)) != addition.right(
        prompts, half
    )
    for part in (turned[::2], turned[1::2]):
        assert checks.rate_interval(int(part.sum()), 2000, expected=0.1)
        assert not checks.rate_interval(int(part.sum()), 2000, expected=0.2)


def test_every_character_is_a_token_and_comes_back():
    words = addition.tokenizer()
    assert (
        words("47+85=231")["input_ids"] == [4, 7, 10, 8, 5, 11, 2, 3, 1]
        and words.decode([4, 7, 10, 11]) == "47+="
    )


def test_the_sums_of_a_seed_have_no_sum_in_common_and_other_seeds_have_others(small):
    one, other = addition.world(small, 0), addition.world(small, 1)
    assert {name: len(part) for name, part in one.items()} == {
        "supervised": 40,
        "pool": 48,
        "validation": 8,
        "test": 16,
    }
    assert len(set(np.concatenate(list(one.values())))) == 112
    assert one["pool"].tolist() == addition.world(small, 0)["pool"].tolist() != other["pool"].tolist()


def test_the_model_is_float64_and_its_loss_is_that_of_the_labels_alone():
    model = addition.tiny_gpt2(np.random.default_rng(0))
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    ids = torch.tensor([[4, 7, 10, 8, 5, 11, 2, 3, 1], [0, 1, 10, 0, 2, 11, 3, 0, 0]])
    log_q = model(ids).logits.log_softmax(-1)
    by_hand = -torch.stack([log_q[i, t - 1, ids[i, t]] for i in range(2) for t in (6, 7, 8)]).mean()
    labels = ids.clone()
    labels[:, :6] = -100
    assert abs(model(ids, labels=labels).loss - by_hand) < 1e-14  # through float32 it would be 1e-8 off


def test_weights_are_those_of_the_generator_alone():
    one, same, other = (addition.tiny_gpt2(np.random.default_rng(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one) and not torch.equal(
        one["lm_head.weight"], other["lm_head.weight"]
    )


def test_the_likeliest_digits_are_those_that_a_cold_sampler_writes():
    model, prompts = addition.tiny_gpt2(np.random.default_rng(0)), ["47+85=", "01+02=", "30+99="]
    cold = addition.model_sampler(model, addition.tokenizer(), max_new_tokens=3, temperature=1e-6)
    assert (
        addition.likeliest(model, prompts) == cold(prompts, np.random.default_rng(0).spawn(3))["completion"]
    )


def test_every_arm_spends_the_budget_to_within_a_step_a_round(small):
    step = 32 * 9 * 3
    for arm in ("control", *arithmetic.ARMS):
        _, reports, spent = arithmetic.train("small", arm, 0, 1e-3, 1.0)
        steps = small["base_steps"] + sum(report.steps for report in reports) if reports else small["steps"]
        sampled = sum(report.sampling.samples for report in reports) if arm != "gold" else 0
        assert spent == step * steps + 9 * sampled and 0 <= small["steps"] * step - spent < 2 * step, arm


def test_rounds_begin_at_the_base_and_gold_trains_on_every_answer(small):
    _, reports, _ = arithmetic.train("small", "gold", 0, 1e-3, 1.0)
    assert [report.examples for report in reports] == [88, 88]
    _, reports, _ = arithmetic.train("small", "rejection", 0, 1e-3, 1.0)
    _, rewards = addition.base("small", 0)
    assert len(rewards) == 48 and reports[0].examples == 40 + reports[0].sampling.accepted < 88
    _, reports, _ = arithmetic.train("small", "blind", 0, 1e-3, 1.0)
    assert (
        reports[0].sampling.accepted < 10
    )  # the base is hardly ever right, and the blind arm keeps at its rate from the start


def test_a_run_again_is_the_same_run_and_another_seed_is_not(small):
    def last(seed):
        return arithmetic.train("small", "blind", seed, 1e-2, 1.0)[0].state_dict()["transformer.wpe.weight"]

    assert torch.equal(last(0), last(0)) and not torch.equal(last(0), last(1))


def test_tuning_gives_a_value_for_each_setting_and_a_run_takes_the_best(small, monkeypatch):
    assert [len(values) for values in arithmetic.tune("small", "control", 0).values()] == [2, 2]
    monkeypatch.setattr(arithmetic.validated, "best", lambda experiment, arm: ([[1e-2, 1.0]], 0.5))
    assert arithmetic.measure("small", "control", 0)["setting"] == [1e-2, 1.0]


def test_the_stored_protocol_keeps_tuning_and_experiment_apart():
    for n in (50, 200, 800):
        section = records.protocol(f"arithmetic-{n}")
        assert section["numbers"] == n and len(section["seeds"]) >= 10
        for name in section["tuning"]:
            assert not set(records.protocol(name)["seeds"]) & set(section["seeds"])


def test_the_judge_of_an_arm_is_the_one_that_judges(small):
    everything = addition.learn(
        addition.tiny_gpt2(np.random.default_rng(0)),
        list(addition.sums(range(64))),
        lambda prompts, completions, **_: [1.0] * len(prompts),
        addition.rules.above(1),
        np.random.default_rng(0),
        steps=2,
        learning_rate=1e-3,
        weight_decay=0.0,
    )[0]
    assert everything.sampling.accepted == everything.examples == 64  # the verifier would pass hardly any
