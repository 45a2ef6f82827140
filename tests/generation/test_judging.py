"""Sample, judge, keep: laws on a model small enough to enumerate, equal completions at every batch size, nothing lost and nothing endless."""

import gc
import itertools
import os
import tracemalloc
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Value
from helpers import letters_tokenizer, tiny_gpt2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.generation import TopKLogitsWarper

from rsf import checks, finite
from rsf.generation import RewardError, model_sampler, sample_and_judge, sampler
from rsf.rules import above, best_of, constant, random_like, tilted

MODEL, WORDS = tiny_gpt2(), letters_tokenizer()
ENDING, END = tiny_gpt2(4, seed=5), letters_tokenizer("abc", eos_token="<end>")


def exact_law(model, words, prompt, length, end=None):
    """{completion: probability}, by a full pass over every sequence, no cache and no padding; a completion ends at the token `end`."""
    law, ids = {}, words(prompt)["input_ids"]
    for tokens in itertools.product(range(model.config.vocab_size), repeat=length):
        tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        with torch.no_grad():
            log_q = model(torch.tensor([ids + list(tokens)])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        law[words.decode(tokens, skip_special_tokens=True)] = float(
            log_q.gather(1, torch.tensor(tokens)[:, None]).sum().exp()
        )
    return law


def letters_worth(prompts, completions, **_):
    """A reward that differs between prompts and completions: -3 to 2."""
    return [
        (text.count("a") - 0.5 * text.count("b")) * (1.0 if prompt == "a" else -1.0)
        for prompt, text in zip(prompts, completions, strict=True)
    ]


PROMPTS = ["a", "bc"]  # of unlike length: one is padded
LAWS = [exact_law(ENDING, END, prompt, 3, end=3) for prompt in PROMPTS]
TEXTS = sorted(LAWS[0])
Q = np.array([[law[text] for text in TEXTS] for law in LAWS])
R = np.array([letters_worth([prompt] * len(TEXTS), TEXTS) for prompt in PROMPTS])


def counts(table):
    """How often each (prompt, completion) is in a table."""
    place = {text: i for i, text in enumerate(TEXTS)}
    cells = [
        PROMPTS.index(prompt) * len(TEXTS) + place[text]
        for prompt, text in zip(table["prompt"], table["completion"], strict=True)
    ]
    return np.bincount(cells, minlength=Q.size)


def write(rule, number, **options):
    """What a rule keeps of the small model's words on `number` copies of each prompt."""
    sample = model_sampler(ENDING, END, max_new_tokens=3, batch_size=1024)
    options = {"samples_per_prompt": 1, "reward": letters_worth} | options
    return sample_and_judge(sample, PROMPTS * number, rule=rule, rng=np.random.default_rng(7), **options)


def test_the_enumerated_world_is_one():
    np.testing.assert_allclose(Q.sum(axis=1), 1, rtol=1e-12)
    assert len(TEXTS) == 1 + 3 + 9 + 27 and set(map(len, TEXTS)) == {0, 1, 2, 3}


def test_completions_follow_the_model_and_carry_their_log_probability():
    _, judged, report = write(constant(1), 3000)
    assert checks.same_counts(counts(judged), Q.ravel() / 2)
    assert checks.must_fail(checks.same_counts(counts(judged), Q[::-1].ravel() / 2))
    expected = [np.log(LAWS[PROMPTS.index(row["prompt"])][row["completion"]]) for row in judged]
    np.testing.assert_allclose(
        judged["log_probability"], expected, atol=1e-5
    )  # generate hands out logits in float32
    assert report.tokens == sum(min(len(text) + 1, 3) for text in judged["completion"])  # the end is a token


LAW_RULES = {"verifier": above(0.5)} | {f"beta {beta}": tilted(beta, 3.0) for beta in (2, 3, 4)}


@pytest.mark.parametrize("rule", LAW_RULES.values(), ids=LAW_RULES)
def test_a_fixed_number_of_samples_tilts_the_prompts_and_until_accepted_does_not(rule):
    fixed, until = (
        finite.joint_law([0.5, 0.5], Q, rule(R), until_accepted=way).ravel() for way in (False, True)
    )
    kept, _, report = write(rule, 1500, samples_per_prompt=4)
    assert checks.same_counts(counts(kept), fixed) and checks.must_fail(
        checks.same_counts(counts(kept), until)
    )
    assert checks.rate_interval(report.accepted, report.samples, expected=float((Q * rule(R)).sum() / 2))
    kept, _, report = write(rule, 2000, until_accepted=True, max_samples=400)
    assert report.without == [] and len(kept) == 4000
    assert checks.same_counts(counts(kept), until) and checks.must_fail(
        checks.same_counts(counts(kept), fixed)
    )


def test_best_of_n_has_its_own_law():
    kept, _, _ = write(best_of(4), 1000, samples_per_prompt=8)
    laws = [
        np.concatenate([finite.best_of_n_law(q, r, n) / 2 for q, r in zip(Q, R, strict=True)]) for n in (4, 8)
    ]
    assert len(kept) == 2 * 2000 and checks.same_counts(counts(kept), laws[0])
    assert checks.must_fail(checks.same_counts(counts(kept), laws[1]))


MIXED = ["abcdef"[: 1 + i % 6] * (1 + i % 5) for i in range(90)]


def mixed(model=MODEL, words=WORDS, seed=1, **options):
    sample = model_sampler(model, words, **{"max_new_tokens": 8, "stop": "\n"} | options)
    return sample_and_judge(
        sample, MIXED, length, above(4), np.random.default_rng(seed), samples_per_prompt=2
    )[1]


def length(prompts, completions, **_):
    return [float(len(text)) for text in completions]


def test_completions_are_equal_at_every_batch_size():
    tables = [mixed(batch_size=size).to_dict() for size in (1, 7, 64)]
    assert (
        tables[0]["completion"] == tables[1]["completion"] == tables[2]["completion"]
        and tables[0]["kept"] == tables[2]["kept"]
    )
    np.testing.assert_allclose(tables[0]["log_probability"], tables[2]["log_probability"], atol=1e-6)
    assert mixed(seed=2)["completion"] != tables[0]["completion"]


def test_a_completion_ends_with_its_stop_string_also_when_the_prompt_ends_like_it():
    texts = mixed()["completion"]
    assert all(
        ("\n" in text) == text.endswith("\n")
        and text.count("\n") <= 1
        and (text.endswith("\n") or len(text) == 8)
        for text in texts
    )
    free = sample_and_judge(
        model_sampler(MODEL, WORDS, max_new_tokens=6),
        ["ab"] * 50,
        length,
        above(0),
        np.random.default_rng(1),
        samples_per_prompt=1,
    )[1]
    cut = sample_and_judge(
        model_sampler(MODEL, WORDS, max_new_tokens=6, stop=["bc", "f"]),
        ["ab"] * 50,
        length,
        above(0),
        np.random.default_rng(1),
        samples_per_prompt=1,
    )[1]
    for whole, text in zip(free["completion"], cut["completion"], strict=True):
        ends = [whole.index(one) + len(one) for one in ("bc", "f") if one in whole]
        assert text == whole[: min(ends, default=6)]
    assert any(
        text.startswith("c") and len(text) > 1 for text in cut["completion"]
    )  # "ab" + "c" holds a stop string, the completion not


def test_what_a_token_says_beyond_the_stop_string_is_cut_off():
    texts = mixed(words=letters_tokenizer([*"abcdef", "\nabc"]))["completion"]
    assert any("\n" in text for text in texts) and all("\n" not in text[:-1] for text in texts)


def test_a_completion_ends_with_the_models_own_end_also_if_the_tokenizer_calls_it_a_letter():
    model = tiny_gpt2()
    model.generation_config.eos_token_id = 2
    texts = mixed(model, stop=())["completion"]
    assert all("c" not in text[:-1] and (text.endswith("c") or len(text) == 8) for text in texts) and any(
        len(text) < 8 for text in texts
    )


def test_the_token_picked_is_the_first_whose_cumulated_probability_exceeds_the_coin():
    coins = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53]
    batch = sampler._Batch(torch.tensor(coins, dtype=torch.float64)[:, None], model_sampler(MODEL, WORDS))
    scores = torch.tensor([[0.0, 0.25, 0.5, 0.25, 0.0]]).log().expand(6, 5)
    assert batch.pick(torch.zeros(6, 3, dtype=torch.long), scores).argmax(-1).tolist() == [1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(batch.log_q[:, 0].exp(), [0.25, 0.25, 0.5, 0.5, 0.25, 0.25])


def test_the_models_own_generation_settings_change_nothing_and_come_back():
    before, model = mixed()["completion"], tiny_gpt2()
    model.generation_config.repetition_penalty, model.generation_config.top_k = 9.0, 1
    model.train()
    assert mixed(model)["completion"] == before
    assert model.training and model.generation_config.repetition_penalty == 9.0


def test_warpers_change_what_is_sampled_from():
    texts = mixed(warpers=[TopKLogitsWarper(1)], stop=())["completion"]
    with torch.no_grad():
        for prompt, text in zip(np.repeat(MIXED, 2)[:12], texts, strict=False):
            ids = WORDS(str(prompt))["input_ids"]
            for _ in range(8):
                ids.append(int(MODEL(torch.tensor([ids])).logits[0, -1].argmax()))
            assert text == WORDS.decode(ids[-8:])
    assert mixed(temperature=1e-4, stop=())["completion"] == texts != mixed(stop=())["completion"]


def test_a_prompt_that_begins_with_the_special_first_token_gets_it_once():
    seen = []
    words = letters_tokenizer("abc", bos_token="<s>", eos_token="<end>")
    words.backend_tokenizer.add_special_tokens(["<s>", "<end>"])
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 3)]
    )
    model = tiny_gpt2(5)
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    for prompt in ("<s>ab", "ab"):
        model_sampler(model, words, max_new_tokens=1)([prompt], [np.random.default_rng(1)])
    assert seen == [[[3, 0, 1]]] * 2


def test_rows_that_ended_leave_the_batch_and_change_nothing():
    rows = []
    model = tiny_gpt2()
    model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    texts = mixed(model, stop=["a", "c"], batch_size=180, max_new_tokens=19)["completion"]
    assert texts == mixed(stop=["a", "c"], batch_size=1, max_new_tokens=19)["completion"]
    longest = max(map(len, texts))
    assert rows == sorted(rows, reverse=True) and len(rows) == longest and sum(rows) < 0.6 * 180 * longest


FAMILIES = {
    "sliding windows": (
        MistralConfig,
        {"num_key_value_heads": 1, "num_attention_heads": 2, "intermediate_size": 24, "sliding_window": 6},
    ),
    "states instead of a cache": (MambaConfig, {}),
}


@pytest.mark.parametrize("config, size", FAMILIES.values(), ids=FAMILIES)
def test_models_with_other_caches_write_the_same_at_every_batch_size(config, size):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(vocab_size=7, hidden_size=16, num_hidden_layers=2, initializer_range=0.6, bos_token_id=None, eos_token_id=None, pad_token_id=None, **size))  # fmt: skip
    tables = [mixed(model.double().eval(), batch_size=n, max_new_tokens=12) for n in (1, 90)]
    assert tables[0]["completion"] == tables[1]["completion"] and 2 < np.mean(tables[0]["tokens"]) < 12


def test_a_stop_string_that_begins_with_a_space_is_found_where_the_tokenizer_takes_the_space_off():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["\u2581a", "\u2581b", "c", "d"])}))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=words)
    sample = model_sampler(ENDING, words, max_new_tokens=4, stop=" b")
    drafts = sample(["a"] * 2000, [np.random.default_rng(i) for i in range(2000)])
    first = [i for i, text in enumerate(drafts["completion"]) if text == " b"]
    with torch.no_grad():
        log_q = float(ENDING(torch.tensor([[0]])).logits[0, -1].log_softmax(-1)[1])
    assert len(first) > 5 and all(drafts["tokens"][i] == 1 for i in first)
    np.testing.assert_allclose([drafts["log_probability"][i] for i in first], log_q, atol=1e-5)


def test_a_character_that_was_cut_in_the_middle_is_left_out():
    byte = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(byte, []))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    sample = model_sampler(tiny_gpt2(256), PreTrainedTokenizerFast(tokenizer_object=words), max_new_tokens=4)
    drafts = sample(["x"] * 100, [np.random.default_rng(i) for i in range(100)])
    assert any("\ufffd" in text for text in drafts["completion"]) and not any(
        text.endswith("\ufffd") for text in drafts["completion"]
    )


def test_it_is_said_whether_the_model_itself_ended():
    table = write(constant(1), 50)[1]
    assert table["ended"] == [
        len(text) < tokens for text, tokens in zip(table["completion"], table["tokens"], strict=True)
    ]
    assert len(set(table["ended"])) == 2 and set(mixed()["ended"]) == {False}


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt():
    words = letters_tokenizer("abc", eos_token="<end>")
    words.backend_tokenizer.add_special_tokens(["<end>"])
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 3)]
    )
    assert words("ab")["input_ids"] == [0, 1, 3]
    assert sampler.prompt_ids(words, "ab") == [0, 1] and sampler.prompt_ids(words, "ab", encoder=True) == [
        0,
        1,
        3,
    ]


def test_what_was_in_eval_mode_before_is_in_eval_mode_after():
    model = tiny_gpt2().train()
    model.transformer.h[0].eval()
    model_sampler(model, WORDS, max_new_tokens=1)(["a"], [np.random.default_rng(1)])
    assert model.training and model.transformer.h[1].mlp.training and not model.transformer.h[0].mlp.training


# below the model is a function: each completion is a number drawn from its Generator


class Dice:
    """A sampler without a model: 0 to 5, and it counts; breaks off after `most` calls."""

    key = "dice"

    def __init__(self, most=10**9):
        self.calls, self.asked, self.most = 0, [], most

    def __call__(self, prompts, rngs):
        if self.calls == self.most:
            raise KeyboardInterrupt
        self.calls, self.asked = self.calls + 1, self.asked + list(prompts)
        return [str(rng.integers(6)) for rng in rngs]


def number(prompts, completions, **_):
    return [float(text) for text in completions]


def dice(sample=None, rule=None, prompts=40, reward=number, seed=5, **options):
    names = [f"p{i}" for i in range(prompts)] if isinstance(prompts, int) else prompts
    options = {"samples_per_prompt": 3, "block": 12} | options
    return sample_and_judge(
        sample or Dice(), names, reward, rule or above(4), np.random.default_rng(seed), **options
    )


def test_sample_j_of_a_prompt_is_the_same_however_it_is_asked_for():
    one, many = dice(samples_per_prompt=3)[1], dice(samples_per_prompt=5, block=1000)[1]
    drawn = np.array(many["completion"]).reshape(-1, 5)
    assert np.array(one["completion"]).reshape(-1, 3).tolist() == drawn[:, :3].tolist()
    one, many = (
        dice(rule=constant(0.5), samples_per_prompt=n, block=b)[1]["kept"] for n, b in ((3, 12), (5, 1000))
    )
    assert (
        np.array(one).reshape(-1, 3).tolist() == np.array(many).reshape(-1, 5)[:, :3].tolist()
    )  # and so is what is decided on it
    kept, judged, _ = dice(samples_per_prompt=1, until_accepted=True, max_samples=5)
    for i in range(40):
        good = np.flatnonzero(drawn[i].astype(int) >= 4)
        own = [
            text
            for prompt, text in zip(judged["prompt"], judged["completion"], strict=True)
            if prompt == f"p{i}"
        ]
        assert own == drawn[i, : good[0] + 1 if len(good) else 5].tolist()
    assert sorted(kept["prompt"]) == sorted(f"p{i}" for i in range(40) if (drawn[i].astype(int) >= 4).any())


def test_until_accepted_collects_as_many_as_asked_and_draws_no_more_than_it_may():
    kept, judged, report = dice(samples_per_prompt=2, until_accepted=True, max_samples=4)
    for i in range(40):
        good = [
            text >= "4"
            for prompt, text in zip(judged["prompt"], judged["completion"], strict=True)
            if prompt == f"p{i}"
        ]
        assert (
            sum(good) <= 2
            and len(good) <= 4
            and (sum(good) == 2 or len(good) == 4)
            and (good[-1] or len(good) == 4)
        )
        assert (i in report.without) == (sum(good) == 0)
    assert (
        report.kept == report.accepted == len(kept) == sum(judged["kept"])
        and report.samples == len(judged) > 80
    )


def test_a_prompt_that_never_pays_is_reported_and_nothing_is_endless():
    kept, judged, report = dice(rule=above(9), samples_per_prompt=1, until_accepted=True, max_samples=7)
    assert (
        len(kept) == 0
        and len(judged) == 7 * 40
        and report.without == list(range(40))
        and "40 of 40 prompts without any" in str(report)
    )
    assert kept.column_names == [name for name in judged.column_names if name != "kept"]


def test_duplicates_and_caps_thin_what_was_accepted_and_are_counted():
    _, judged, _ = dice(samples_per_prompt=12)
    kept, thinned, report = dice(samples_per_prompt=12, dedupe=str)
    assert thinned["completion"] == judged["completion"] and report.accepted == sum(judged["kept"])
    pairs = [
        (p, c) for p, c, k in zip(judged["prompt"], judged["completion"], judged["kept"], strict=True) if k
    ]
    assert list(zip(kept["prompt"], kept["completion"], strict=True)) == list(dict.fromkeys(pairs))
    assert report.duplicates == len(pairs) - len(kept) > 0 == report.over_cap and report.kept == len(kept)
    kept, _, report = dice(samples_per_prompt=12, cap=2)
    firsts = [[pair for pair in pairs if pair[0] == f"p{i}"][:2] for i in range(40)]
    assert list(zip(kept["prompt"], kept["completion"], strict=True)) == list(
        itertools.chain(*firsts)
    ) and report.over_cap == len(pairs) - len(kept)
    parity = dice(samples_per_prompt=12, rule=above(0), dedupe=lambda text: int(text) % 2)[0]
    assert all(
        len({int(c) % 2 for p, c in zip(parity["prompt"], parity["completion"], strict=True) if p == f"p{i}"})
        == 2
        for i in range(9)
    )


def test_duplicates_are_found_across_blocks_when_sampling_until_accepted():
    options = {"samples_per_prompt": 4, "until_accepted": True, "max_samples": 60, "block": 7}
    kept, _, report = dice(dedupe=str, **options)
    pairs = list(zip(kept["prompt"], kept["completion"], strict=True))
    assert len(pairs) == len(set(pairs)) and report.accepted == 160 == report.kept + report.duplicates


def test_other_columns_reach_the_reward_and_the_result():
    prompts = Dataset.from_dict({"prompt": ["x", "y"], "answer": [1, 4]})
    seen = []

    def right(prompts, completions, answer):
        seen.extend(zip(prompts, answer, strict=True))
        return [float(int(text) == gold) for text, gold in zip(completions, answer, strict=True)]

    kept, judged, _ = dice(prompts=prompts, reward=right, rule=above(1), samples_per_prompt=20)
    assert seen == [("x", 1)] * 20 + [("y", 4)] * 20 and judged.features["answer"] == Value("int64")
    assert set(zip(kept["prompt"], kept["answer"], kept["completion"], strict=True)) == {
        ("x", 1, "1"),
        ("y", 4, "4"),
    }


def test_a_reward_of_none_is_judged_never_kept_and_not_in_the_rate():
    kept, judged, report = dice(
        reward=lambda prompts, completions: [None if text == "5" else float(text) for text in completions],
        rule=above(4),
    )
    fives = judged["completion"].count("5")
    assert set(kept["completion"]) == {"4"} and report.skipped == fives > 0
    assert report.acceptance_rate == pytest.approx(len(kept) / (120 - fives))
    whole = dice(
        reward=lambda prompts, completions: [None if text == "5" else 1.0 for text in completions],
        rule=best_of(3),
    )
    groups = ["5" not in group for group in np.array(whole[1]["completion"]).reshape(-1, 3)]
    assert np.array(whole[1]["kept"]).reshape(-1, 3).sum(axis=1).tolist() == groups


async def asynchronous(prompts, completions):
    return [1.0] * len(prompts)


async def one_by_one(prompts, completions):
    yield 1.0


BAD_REWARDS = {
    "raises": (lambda prompts, completions: 1 / 0, "the reward raised ZeroDivisionError"),
    "nan": (
        lambda prompts, completions: [float("nan")] * len(prompts),
        "the reward is nan for '[0-5]' after 'p4'",
    ),
    "inf": (lambda prompts, completions: [float("inf")] * len(prompts), "the reward is inf"),
    "length": (lambda prompts, completions: [1.0], "gave 1 values for 12 completions"),
    "above the ceiling": (
        lambda prompts, completions: [9.0] * len(prompts),
        "refuses a reward: reward 9 at index .* exceeds the ceiling 5",
    ),
    "a text": (lambda prompts, completions: ["good"] * len(prompts), "the reward is 'good' for '[0-5]' after"),
    "a number as text": (lambda prompts, completions: ["0.7"] * len(prompts), "the reward is '0.7' for"),
    "a text of NumPy": (lambda prompts, completions: np.array(["0.7"] * len(prompts)), r"the reward is .*0\.7"),
    "bytes": (lambda prompts, completions: [b"0.7"] * len(prompts), "the reward is b'0.7' for"),
    "one text": (lambda prompts, completions: "0" * len(prompts), "the reward is '0' for"),
    "a complex number": (lambda prompts, completions: [1j] * len(prompts), "the reward is 1j for"),
    "a list for each": (lambda prompts, completions: [[1.0, 2.0]] * len(prompts), r"the reward is \[1.0, 2.0\] for"),
    "a row for each": (lambda prompts, completions: np.ones((len(prompts), 2)), r"the reward is array\(\[1., 1.\]\) for"),
    "a tensor's row for each": (lambda prompts, completions: torch.ones(len(prompts), 2), r"the reward is tensor\(\[1., 1.\]\)"),
    "pandas' NA": (lambda prompts, completions: [pd.NA] * len(prompts), "the reward is <NA> for"),
    "a number too large": (lambda prompts, completions: [10**400] * len(prompts), "the reward is 1000"),
    "NaN of NumPy": (lambda prompts, completions: np.full(len(prompts), np.nan), "the reward is .*nan.* for"),
    "one number": (lambda prompts, completions: 0.7, "'float' object is not iterable"),
    "None": (lambda prompts, completions: None, "'NoneType' object is not iterable"),
    "no axis": (lambda prompts, completions: np.array(0.7), "the reward raised TypeError: iteration over a 0-d"),
    "a dict": (lambda prompts, completions: dict(enumerate(prompts)), "gave 12 values for 12 completions, in a dict"),
    "a dict of lists": (lambda prompts, completions: {"reward": [1.0] * len(prompts)}, "1 values .* in a dict"),
    "a set": (lambda prompts, completions: set(range(len(prompts))), "in a set: it must give a list"),
    "too many": (lambda prompts, completions: [1.0] * 20, "gave 13 values for 12 completions"),
    "without an end": (lambda prompts, completions: itertools.repeat(1.0), "gave 13 values for 12 completions"),
    "a generator that breaks": (lambda prompts, completions: (1 / 0 for _ in prompts), "raised ZeroDivisionError"),
    "async": (asynchronous, "'coroutine' object is not iterable"),
    "async, one by one": (one_by_one, "'async_generator' object is not iterable"),
    "a column too few": (lambda prompts: [1.0], "raised TypeError.*completions"),
}  # fmt: skip


@pytest.mark.parametrize("bad, message", BAD_REWARDS.values(), ids=BAD_REWARDS)
def test_a_bad_reward_is_a_clear_error_and_what_was_sampled_is_kept(tmp_path, bad, message):
    def turns_bad(prompts, completions):
        if "p4" not in prompts:
            return number(prompts, completions)
        return bad(prompts=prompts, completions=completions)

    sample, rule = Dice(), tilted(1.0, 5.0)
    with pytest.raises(RewardError, match=message) as caught:
        dice(sample, rule, reward=turns_bad, folder=tmp_path)
    assert sample.calls == 2 and len(caught.value.judged) == 12 and len(caught.value.completions) == 12
    mended = dice(sample, rule, folder=tmp_path)
    assert (
        sample.calls == 10 and mended[1].to_dict() == dice(rule=rule)[1].to_dict()
    )  # the two blocks were not sampled again


def test_an_async_reward_is_refused_without_a_word_of_python_on_it():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(RewardError, match="'coroutine' object is not iterable"):
            dice(reward=asynchronous)
        gc.collect()
    assert not any("never awaited" in str(one.message) for one in warned)


NUMBERS = {
    "true and false": [True, False],
    "booleans of NumPy": np.array([True, False]),
    "whole numbers": (1, 0),
    "numbers of NumPy": np.array([1, 0], dtype=np.int8),
    "arrays without an axis": [np.array(1.0), np.array(0)],
    "a tensor": torch.tensor([1.0, 0.0], dtype=torch.bfloat16),
    "a tensor with a gradient": torch.tensor([1.0, 0.0], requires_grad=True),
    "tensors": [torch.tensor(1), torch.tensor([0.0])],
    "a Series": pd.Series([1, 0], index=[5, 7]),
    "fractions": [Fraction(1), Decimal(0)],
    "a tuple in a generator": (one for one in (1.0, 0.0)),
    "keys": {1.0: "a", 0.0: "b"}.keys(),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("given", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_any_library_are_rewards(given):
    _, judged, _ = dice(
        prompts=2, samples_per_prompt=1, reward=lambda prompts, completions: given, rule=above(1)
    )
    assert judged["reward"][:] == [1.0, 0.0] and judged["kept"][:] == [True, False]


def test_none_among_numbers_of_any_library_does_not_apply():
    _, judged, report = dice(prompts=3, samples_per_prompt=1, reward=lambda prompts, completions: [None, np.float32(2), None])  # fmt: skip
    assert report.skipped == 2 and judged["reward"][1] == 2.0 and judged["kept"][:] == [False] * 3


def test_whatever_breaks_the_run_has_what_was_judged_before_and_nothing_passes_for_the_whole(tmp_path):
    asked = []

    def breaks(completion):
        asked.append(completion)
        if len(asked) == 25:
            raise MemoryError("no room for keys")
        return completion

    for folder in (None, tmp_path):
        asked.clear()
        with pytest.raises(MemoryError) as caught:
            dice(dedupe=breaks, rule=above(0), folder=folder)
        assert len(caught.value.judged) == 24 and len(caught.value.completions) == 12
        with pytest.raises(KeyboardInterrupt) as caught:  # of the sampler
            dice(Dice(most=2), seed=6, folder=folder)
        assert len(caught.value.judged) == 24 and caught.value.completions is None
    assert not (tmp_path / "judged-0.arrow").exists() and (tmp_path / "judged-0-so-far.arrow").exists()
    dice(folder=tmp_path)
    assert (tmp_path / "judged-0.arrow").exists()


def test_a_table_that_is_still_read_and_keeps_its_name_loses_no_other(tmp_path, monkeypatch):
    def as_windows(source, target):
        if Path(target) in mapped:
            raise PermissionError(f"[WinError 5] Access is denied: {source} -> {target}")
        mapped.append(Path(target))
        return replace(source, target)

    mapped = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", as_windows)
    tables = [dice(rule=rule, folder=tmp_path)[1] for rule in (above(4), above(2), above(4))]
    assert tables[0]["kept"] == tables[2]["kept"] != tables[1]["kept"]
    assert len(list(tmp_path.glob("judged-0*.arrow"))) == 3 and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "options",
    [{}, {"samples_per_prompt": 1, "until_accepted": True, "max_samples": 6}],
    ids=["fixed", "until accepted"],
)
def test_killed_and_resumed_is_the_same_data_set_and_no_prompt_is_sampled_twice(tmp_path, options):
    whole, first, second = Dice(), Dice(most=3), Dice()
    expected = dice(whole, rule=random_like(above(4)), folder=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        dice(first, rule=random_like(above(4)), folder=tmp_path / "cut", **options)
    (tmp_path / "cut" / "0123.part").write_text("half a fi")
    resumed = dice(second, rule=random_like(above(4)), folder=tmp_path / "cut", **options)
    assert [table.to_dict() for table in resumed[:2]] == [
        table.to_dict() for table in expected[:2]
    ] and resumed[2] == expected[2]
    assert first.asked + second.asked == whole.asked


def test_numbers_of_numpy_rewards_one_by_one_and_large_strings_are_taken(tmp_path):
    def sample(prompts, rngs):
        return {"completion": ["3"] * len(prompts), "log_probability": np.full(len(prompts), -0.5, np.float32), "tokens": np.ones(len(prompts), int)}  # fmt: skip

    sample.key = "three"
    prompts = Dataset(pa.table({"prompt": pa.array(["x", "y"], pa.large_string())}))
    for _ in range(2):  # drawn, then read
        judged = dice(
            sample,
            prompts=prompts,
            reward=lambda prompts, completions: (float(text) for text in completions),
            folder=tmp_path,
        )[1]
        assert (
            judged["log_probability"] == [-0.5] * 6
            and judged["tokens"] == [1] * 6
            and judged["reward"] == [3.0] * 6
        )


def test_other_coins_prompts_or_samplers_find_nothing_of_theirs_on_disk(tmp_path):
    dice(folder=tmp_path)
    same, seed, prompts, sampler = Dice(), Dice(), Dice(), Dice()
    sampler.key = "other dice"
    dice(same, folder=tmp_path, rule=above(2))
    dice(seed, folder=tmp_path, seed=6)
    dice(prompts, folder=tmp_path, prompts=[f"q{i}" for i in range(40)])
    dice(sampler, folder=tmp_path)
    assert (same.calls, seed.calls, prompts.calls, sampler.calls) == (0, 10, 10, 10)


def test_the_key_of_a_model_sampler_says_all_that_it_depends_on():
    model = tiny_gpt2()
    variants = [
        model_sampler(model, WORDS),
        model_sampler(tiny_gpt2(seed=4), WORDS),
        model_sampler(model, letters_tokenizer("bacdef\n")),
    ]
    variants += [
        model_sampler(model, WORDS, **one)
        for one in ({"temperature": 2}, {"stop": "\n"}, {"warpers": [TopKLogitsWarper(2)]})
    ]
    assert (
        len({sample.key() for sample in variants}) == 6
        and variants[0].key() == model_sampler(tiny_gpt2(), WORDS, batch_size=3).key()
    )
    model.lm_head.weight.data[0, 0] += 1e-9
    assert variants[0].key() != model_sampler(tiny_gpt2(), WORDS).key()


def test_two_calls_with_one_generator_draw_other_samples():
    rng = np.random.default_rng(5)
    one, two = (
        sample_and_judge(Dice(), ["x"] * 40, number, above(4), rng, samples_per_prompt=1)[1]["completion"]
        for _ in range(2)
    )
    assert one != two


def test_a_rule_with_a_past_observes_block_by_block():
    rule = random_like(above(4), window=12)
    _, judged, _ = dice(rule=rule, samples_per_prompt=3, block=12)
    a = np.exp(judged["log_acceptance"]).reshape(-1, 12)
    rates = (np.array(judged["completion"]).astype(int) >= 4).reshape(-1, 12).mean(axis=1)
    np.testing.assert_allclose(a, np.repeat([[1.0, *rates[:-1]]], 12, axis=0).T)


def test_memory_is_bounded_by_a_block_whatever_the_number_of_prompts(tmp_path):
    peaks = []
    for prompts in (1000, 5000):
        names = Dataset.from_dict({"prompt": [f"p{i}" for i in range(prompts)]})
        tracemalloc.start()
        dice(prompts=names, samples_per_prompt=1, block=256, folder=tmp_path / str(prompts))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4000 * 100  # not a hundred bytes for one more prompt


BAD_CALLS = {
    "an answer": ({"prompts": [[{"role": "assistant", "content": "x"}]]}, "ends with the assistant"),
    "no prompts": ({"prompts": []}, "0 prompts"),
    "taken column": ({"prompts": Dataset.from_dict({"prompt": ["x"], "reward": [1.0]})}, r"\['reward'\]"),
    "no samples": ({"samples_per_prompt": 0}, "got 0"),
    "no limit": ({"until_accepted": True}, "max_samples"),
    "a limit too much": ({"max_samples": 9}, "max_samples"),
    "a limit too low": ({"until_accepted": True, "max_samples": 2}, "at least 3"),
    "best of four among three": ({"rule": best_of(4)}, "multiple"),
    "best until accepted": (
        {"rule": best_of(3), "until_accepted": True, "max_samples": 9},
        "until_accepted=False",
    ),
    "no key": ({"sample": lambda prompts, rngs: ["1"] * len(prompts), "folder": "x"}, "attribute `key`"),
    "too few": ({"sample": lambda prompts, rngs: ["1"]}, "each of 12 prompts, got {'completion': 1}"),
    "nothing": ({"sample": lambda prompts, rngs: {"text": ["1"] * len(prompts)}}, "one str"),
    "tokens": ({"sample": lambda prompts, rngs: [[1]] * len(prompts)}, "one str"),
    "a reward above the ceiling": ({"rule": tilted(1.0, 3.0)}, "exceeds the ceiling 3"),
}


@pytest.mark.parametrize("options, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_does_not_fit_is_refused_and_named(options, message):
    with pytest.raises(ValueError, match=message):
        dice(**options)


def test_what_a_model_has_no_positions_for_is_refused_before_anything_is_written():
    full = model_sampler(MODEL, WORDS, max_new_tokens=44)(["abcde"], [np.random.default_rng(0)])
    assert full["tokens"] == [44]  # 48 positions: the last token is not read again
    with pytest.raises(
        ValueError,
        match="'abcde' has 5 tokens, with max_new_tokens=45 that is 49 positions, the model has 48",
    ):
        model_sampler(MODEL, WORDS, max_new_tokens=45)(
            ["a", "abcde"], [np.random.default_rng(i) for i in range(2)]
        )


def test_a_prompt_without_tokens_and_probabilities_that_are_nan_are_named():
    with pytest.raises(ValueError, match="'' has no tokens"):
        model_sampler(MODEL, WORDS)(["a", ""], [np.random.default_rng(i) for i in range(2)])
    broken = tiny_gpt2()
    broken.lm_head.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="NaN after 'ab'"):
        model_sampler(broken, WORDS, max_new_tokens=4)(["ab"], [np.random.default_rng(1)])


def test_what_was_kept_trains_with_trls_own_trainer_without_conversion(tmp_path):
    trl = pytest.importorskip("trl")
    kept, _, _ = write(above(0.5), 30, samples_per_prompt=2)
    settings = {
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    model = tiny_gpt2(4, seed=5).train()
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(str(tmp_path), use_cpu=True, bf16=False, **settings),
        train_dataset=kept,
        processing_class=END,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(kept))])
    for ids, labels, row in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), kept, strict=True):
        prompt, completion = (
            END(row["prompt"])["input_ids"],
            [*END(row["completion"])["input_ids"], END.eos_token_id],
        )
        assert ids[: len(prompt + completion)] == prompt + completion
        assert [
            label for label in labels if label != -100
        ] == completion  # the loss is that of the completion alone
    assert trainer.train().global_step == 3
    assert not torch.equal(model.lm_head.weight, ENDING.lm_head.weight)
