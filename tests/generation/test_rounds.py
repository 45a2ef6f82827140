"""The loop of rounds, on models small enough to train in a second: what is trained, from where, when it stops, and that it goes on after a kill."""

import datetime
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers import letters_tokenizer, tiny_gpt2
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, TrainingArguments

from rsf.generation import model_sampler, rounds, rsf_rounds, sample_and_judge
from rsf.generation.encoding import encode
from rsf.rules import above, at_rate, best_of, constant, random_like, tilted

WORDS = letters_tokenizer("abc", eos_token="<end>")
PROMPTS = ["a", "bc", "cab"] * 8
tiny_model = partial(tiny_gpt2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
SAMPLER = partial(model_sampler, max_new_tokens=4, batch_size=64)


def share_of_a(prompts, completions, **_):
    return [text.count("a") / 4 for text in completions]


def arguments(folder, **options):
    quiet = {
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": 3,
    }
    settings = {"learning_rate": 0.02, "per_device_train_batch_size": 16, "num_train_epochs": 2}
    return TrainingArguments(output_dir=str(folder), **quiet | settings | options)


def loop(folder, model=None, rule=None, *, reward=share_of_a, seed=4, args=None, **options):
    """Run rounds and return (model, reports)."""
    model = model or tiny_model(4, seed=5)
    options = {"rounds": 2, "samples_per_prompt": 4, "sampler": SAMPLER} | options
    rng = np.random.default_rng(seed)
    return model, rsf_rounds(
        model, WORDS, PROMPTS, reward, rule or above(0.5), arguments(folder, **args or {}), rng, **options
    )


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


ONE_STEP = {
    "optim": "sgd",
    "max_steps": 1,
    "per_device_train_batch_size": 4096,
    "max_grad_norm": 0.0,
    "learning_rate": 0.5,
}


def one_step_by_hand(model, rows):
    """Descend the mean loss of a completion's tokens once, written out (the library computes its loss in float32)."""
    model.zero_grad()
    losses = []
    for row in rows:
        prompt, completion = WORDS(row["prompt"])["input_ids"], WORDS(row["completion"])["input_ids"]
        drawn = completion + [3] * (row["tokens"] is None or row["tokens"] > len(completion))
        log_q = model(torch.tensor([prompt + drawn])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        losses.append(-log_q.gather(1, torch.tensor(drawn)[:, None])[:, 0])
    torch.cat(losses).mean().backward()
    with torch.no_grad():
        for value in model.parameters():
            value -= ONE_STEP["learning_rate"] * value.grad
    return model


def kept_of(folder, r, model, rule=None):
    """What round r kept: the same coins, drawn again."""
    coins = np.random.default_rng(4).spawn(r)[-1]
    return sample_and_judge(
        SAMPLER(model, WORDS), PROMPTS, share_of_a, rule or above(0.5), coins, samples_per_prompt=4
    )[0]


@pytest.mark.parametrize("restart", [True, False])
def test_each_round_trains_on_what_the_model_before_it_wrote_from_where_it_should(tmp_path, restart):
    model, reports = loop(tmp_path, args=ONE_STEP, restart=restart)
    base = tiny_model(4, seed=5)
    first = one_step_by_hand(tiny_model(4, seed=5), kept_of(tmp_path, 1, base))
    rows = kept_of(tmp_path, 2, first)
    second = one_step_by_hand(tiny_model(4, seed=5) if restart else first, rows)
    torch.testing.assert_close(weights(model), weights(second), rtol=0, atol=1e-6)
    assert (weights(model) - weights(base)).abs().max() > 1e-3
    assert [report.examples for report in reports] == [reports[0].sampling.kept, len(rows)] and reports[
        1
    ].stopped == "2 rounds are done"


def test_supervised_rows_are_mixed_in_and_learn_their_end(tmp_path):
    gold = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["ccc", "cc"]})
    model, reports = loop(tmp_path, args=ONE_STEP, rounds=1, supervised=gold)
    kept = list(kept_of(tmp_path, 1, tiny_model(4, seed=5)))
    mixed = kept + [row | {"tokens": None} for row in gold]
    torch.testing.assert_close(
        weights(model), weights(one_step_by_hand(tiny_model(4, seed=5), mixed)), rtol=0, atol=1e-6
    )
    assert reports[0].examples == len(kept) + 2


def test_a_model_learns_what_is_rewarded_and_a_blind_control_does_not(tmp_path):
    options = {
        "rounds": 4,
        "samples_per_prompt": 16,
        "args": {"num_train_epochs": 2, "learning_rate": 0.01},
        "restart": False,
    }
    _, judged = loop(tmp_path / "judged", **options)
    _, blind = loop(tmp_path / "blind", rule=constant(0.3), **options)
    assert (
        judged[-1].reward > judged[0].reward + 0.3
        and judged[-1].sampling.acceptance_rate > 0.8 > judged[0].sampling.acceptance_rate + 0.2
    )
    assert abs(blind[-1].reward - blind[0].reward) < 0.2


def test_forward_passes_are_counted_by_token_the_rejected_included(tmp_path):
    _, reports = loop(tmp_path, rounds=1, args={"num_train_epochs": 3})
    _, judged, _ = sample_and_judge(SAMPLER(tiny_model(4, seed=5), WORDS), PROMPTS, share_of_a, above(0.5), np.random.default_rng(4).spawn(1)[0], samples_per_prompt=4)  # fmt: skip
    tokens = [(len(row["prompt"]) + row["tokens"], row["kept"]) for row in judged]
    assert reports[0].spent == sum(n for n, _ in tokens) + 3 * 3 * sum(n for n, kept in tokens if kept)


STOPS = {
    "rounds": ({}, 2, "2 rounds are done"),
    "target": ({"target_reward": 0.0}, 1, "the mean reward reached 0"),
    "saturation": ({"saturation": 1.0}, 2, "the acceptance rate rose by less than 1, from"),
    "budget": ({"budget": 10}, 1, "the budget of 10 forward passes is spent"),
    "nothing": ({"rule": above(9)}, 1, "nothing was kept"),
}


@pytest.mark.parametrize("options, number, why", STOPS.values(), ids=STOPS)
def test_every_stop_condition_stops_and_says_so(tmp_path, options, number, why):
    told = []
    model, reports = loop(tmp_path, on_round=told.append, **options)
    assert (
        len(reports) == number
        and why in reports[-1].stopped
        and [report.stopped for report in reports[:-1]] == [None] * (number - 1)
    )
    assert why in str(reports[-1]) and told == [report for report in reports if report.steps]
    if "target" in why or "nothing" in why:
        assert torch.equal(weights(model), weights(tiny_model(4, seed=5)))


class Killed(Exception):
    pass


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("moment", ["sampling", "training"])
def test_killed_and_called_again_it_ends_with_the_same_weights_and_reports(
    tmp_path, monkeypatch, restart, moment
):
    options = {"rounds": 3, "restart": restart, "rule": random_like(above(0.5), window=20)}
    model, reports = loop(tmp_path / "whole", **options)
    calls = []

    def breaks(*given, **more):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*given, **more)

    where, name = {"sampling": (rounds, "sample_and_judge"), "training": (rounds.Learner, "train")}[moment]
    original = getattr(where, name)
    monkeypatch.setattr(where, name, breaks)
    with pytest.raises(Killed):
        loop(tmp_path / "cut", **options | {"rule": random_like(above(0.5), window=20)})
    resumed, again = loop(tmp_path / "cut", **options | {"rule": random_like(above(0.5), window=20)})
    assert again == reports and torch.equal(weights(resumed), weights(model))
    assert len(calls) == 2 + 2  # round 1 was done; rounds 2 and 3 remained
    once_more, same = loop(tmp_path / "cut", **options | {"rule": random_like(above(0.5), window=20)})
    assert same == reports and torch.equal(weights(once_more), weights(model)) and len(calls) == 4


def test_killed_between_the_weights_and_the_report_a_round_is_done_again(tmp_path, monkeypatch):
    model, reports = loop(tmp_path / "whole", restart=False)
    write = rounds.write_json

    def breaks(file, record):
        if file.parent.name == "round-02":
            raise Killed
        write(file, record)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rounds, "write_json", breaks)
        loop(tmp_path / "cut", restart=False)
    resumed, again = loop(tmp_path / "cut", restart=False)
    assert again == reports and torch.equal(weights(resumed), weights(model))


@pytest.mark.parametrize("options, message", [({"rounds": 0}, "at least 1, got 0"), ({"budget": 0}, None)])
def test_no_rounds_are_an_error_and_no_budget_is_one_round(tmp_path, options, message):
    if message:
        with pytest.raises(ValueError, match=message):
            loop(tmp_path, **options)
    else:
        assert len(loop(tmp_path, **options)[1]) == 1


def test_more_rounds_go_on_from_the_last_and_fewer_are_refused(tmp_path):
    loop(tmp_path, rounds=2)
    model, reports = loop(tmp_path, rounds=3)
    fresh, all_three = loop(tmp_path / "fresh", rounds=3)
    assert reports == all_three and torch.equal(weights(model), weights(fresh))
    with pytest.raises(ValueError, match="holds more than 2 rounds"):
        loop(tmp_path, rounds=2)


def test_the_folder_of_another_run_is_refused_and_each_rounds_model_can_be_loaded(tmp_path):
    model, _ = loop(tmp_path)
    assert torch.equal(
        weights(type(model).from_pretrained(tmp_path / "round-02", dtype=torch.float64)), weights(model)
    )
    for options, what in (({"rule": above(0.25)}, "rule"), ({"seed": 5}, "coins"), ({"model": tiny_model(4, seed=6)}, "weights"), ({"samples_per_prompt": 2}, "samples"), ({"args": {"learning_rate": 0.01}}, "training"), ({"sampler": partial(model_sampler, max_new_tokens=5)}, "sampler"), ({"supervised": Dataset.from_dict({"prompt": ["a"], "completion": ["c"]})}, "supervised")):  # fmt: skip
        with pytest.raises(ValueError, match=f"another run, which differs in {what}"):
            loop(tmp_path, **options)


def test_only_what_is_trainable_changes_and_restarts(tmp_path):
    model = tiny_model(4, seed=5)
    for value in model.transformer.parameters():
        value.requires_grad = False
    for value in model.transformer.h[1].parameters():
        value.requires_grad = True
    before = {name: value.clone() for name, value in model.named_parameters()}
    loop(tmp_path, model)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("transformer.h.1.") for name in changed)


def test_lora_adapters_train_round_by_round(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_model(4, seed=5),
        peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
    )
    _, reports = loop(tmp_path, model, args={"learning_rate": 0.1})
    assert len(reports) == 2 and (tmp_path / "round-02" / "adapter_model.safetensors").exists()
    assert torch.equal(model.base_model.model.lm_head.weight, tiny_model(4, seed=5).lm_head.weight)
    assert reports[1].reward != reports[0].reward and any(
        "lora_B" in name and value.abs().sum() > 0 for name, value in model.named_parameters()
    )


def test_the_end_is_learned_where_it_was_drawn():
    row = {"prompt": "ab", "completion": "ca"}
    assert (
        encode(row, WORDS)
        == {"input_ids": [0, 1, 2, 0, 3], "labels": [-100, -100, 2, 0, 3]}
        == encode(row | {"ended": True}, WORDS)
    )
    assert encode(row | {"ended": False}, WORDS) == {
        "input_ids": [0, 1, 2, 0],
        "labels": [-100, -100, 2, 0],
    }  # cut off
    assert encode(row, WORDS, seq2seq=True) == {"input_ids": [0, 1], "labels": [2, 0, 3]}


def test_a_completion_that_begins_with_a_space_is_trained_on_as_it_was_written():
    words = Tokenizer(
        models.BPE({"\u2581": 0, "a": 1, "b": 2, "\u2581b": 3}, [("\u2581", "b")])
    )  # as Llama's
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    words.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = PreTrainedTokenizerFast(tokenizer_object=words)
    sample, coins = (
        model_sampler(tiny_model(4, seed=5), words, max_new_tokens=1),
        [np.random.default_rng(i) for i in range(400)],
    )
    texts = set(sample(["a"] * 400, coins)["completion"])
    assert " b" in texts and encode({"prompt": "a", "completion": " b"}, words) == {
        "input_ids": [0, 1, 3],
        "labels": [-100, -100, 3],
    }


def test_encoder_decoders_are_sampled_from_and_trained_the_same_way(tmp_path):
    torch.manual_seed(2)
    config = T5Config(vocab_size=4, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0, decoder_start_token_id=3, eos_token_id=3, pad_token_id=0)  # fmt: skip
    model = T5ForConditionalGeneration(config).double().eval()
    tables = [
        sample_and_judge(model_sampler(model, WORDS, max_new_tokens=4, batch_size=n), PROMPTS, share_of_a, above(0.5), np.random.default_rng(1), samples_per_prompt=2)[1]
        for n in (1, 64)
    ]  # fmt: skip
    assert tables[0]["completion"] == tables[1]["completion"]
    for row in tables[0].select(range(6)):
        labels = WORDS(row["completion"])["input_ids"] + [3] * (row["tokens"] > len(row["completion"]))
        with torch.no_grad():
            loss = model(
                input_ids=torch.tensor([WORDS(row["prompt"])["input_ids"]]), labels=torch.tensor([labels])
            ).loss
        assert row["log_probability"] == pytest.approx(-float(loss) * len(labels), abs=1e-5)
    _, reports = loop(tmp_path, model, rounds=4, restart=False)
    assert reports[-1].reward > reports[0].reward + 0.1


def test_a_model_in_pieces_is_refused(tmp_path, monkeypatch):
    whole = rounds.Learner.trainer

    def pieces(*given):
        trainer = whole(*given)
        trainer.is_fsdp_enabled = True
        return trainer

    monkeypatch.setattr(rounds.Learner, "trainer", pieces)
    with pytest.raises(NotImplementedError, match="a whole model in each process"):
        loop(tmp_path)


# ---- refused before anything is sampled

GOLD = [{"prompt": "a", "completion": "ccc"}, {"prompt": "b", "completion": "cc", "ended": False}]
LATE = {
    "texts for examples": ({"supervised": ["a ccc"]}, r"supervised\[0\] is 'a ccc'"),
    "examples without completion": ({"supervised": [{"prompt": "a"}]}, "supervised needs a column 'completion'"),
    "an example without completion": ({"supervised": [*GOLD, {"prompt": "a"}]}, "supervised has no text in row 2"),
    "examples without prompt": ({"supervised": Dataset.from_dict({"completion": ["c"]})}, "supervised needs a column 'prompt'"),
    "splits of examples": ({"supervised": DatasetDict(train=Dataset.from_list(GOLD))}, "supervised is a DatasetDict"),
    "columns of examples": ({"supervised": {"prompt": ["a"], "completion": ["c"]}}, "supervised is a dict"),
    "half a chat": ({"supervised": [{"prompt": "a", "completion": [{"role": "assistant", "content": "c"}]}]}, "both a text, or both"),
    "an example that is too long": ({"supervised": [{"prompt": "a", "completion": "c" * 48}]}, "has 50 tokens, the model has 48"),
    "prompts that are too long": ({"prompts": ["a", "b" * 45]}, "with max_new_tokens=4 that is 49 positions"),
    "a text for prompts": ({"prompts": "a"}, "prompts is a str"),
    "rewards in a list": ({"reward": [share_of_a]}, "reward must be one function"),
    "a seed": ({"rng": 4}, "rng must be a Generator"),
    "a family for a rule": ({"rule": above}, "rule must be a rule"),
    "best of three among four": ({"rule": best_of(3)}, "must be a multiple"),
    "true for dedupe": ({"dedupe": True}, "dedupe must be a function"),
    "half a cap": ({"cap": 0.5}, "must be whole numbers"),
    "no limit": ({"until_accepted": True}, "needs max_samples"),
    "a report for on_round": ({"on_round": "print"}, "on_round must be a function of a report, got 'print'"),
    "half a round": ({"rounds": 1.5}, "rounds must be a whole number of at least 1, got 1.5"),
    "a target in words": ({"target_reward": "0.9"}, "must be numbers, got .*'0.9'"),
    "a target that is never reached": ({"target_reward": float("nan")}, r"must be numbers, got \[nan"),
    "a budget in words": ({"budget": "10"}, "must be numbers"),
    "evaluation without data": ({"args": {"eval_strategy": "epoch"}}, "eval_dataset"),
    "a sampler that is none": ({"sampler": lambda model, tokenizer: None}, "sample must be a function"),
}  # fmt: skip


@pytest.mark.parametrize("options, message", LATE.values(), ids=LATE)
def test_what_would_fail_late_is_refused_before_anything_is_sampled_and_leaves_the_folder_free(tmp_path, options, message):  # fmt: skip
    asked = []

    def reward(prompts, completions):
        asked.extend(prompts)
        return share_of_a(prompts, completions)

    given = {
        "model": tiny_model(4, seed=5),
        "tokenizer": WORDS,
        "prompts": PROMPTS,
        "reward": reward,
        "rule": above(0.5),
    }
    given |= {
        "args": {},
        "rng": np.random.default_rng(4),
        "rounds": 1,
        "samples_per_prompt": 4,
        "sampler": SAMPLER,
    }
    given |= options
    given["args"] = arguments(tmp_path, **given["args"])
    with pytest.raises(ValueError, match=message):
        rsf_rounds(**given)
    assert asked == []
    _, reports = loop(tmp_path, rounds=1)
    assert reports[0].steps > 0


def test_a_model_without_anything_to_train_is_refused(tmp_path):
    model = tiny_model(4, seed=5).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        loop(tmp_path, model)


@pytest.mark.parametrize("supervised", [GOLD, tuple(GOLD), (row for row in GOLD), []], ids=["list", "tuple", "generator", "none"])  # fmt: skip
def test_examples_may_be_rows_and_ends_are_learned_where_they_are(tmp_path, supervised):
    expected = Dataset.from_list([GOLD[0] | {"ended": None}, GOLD[1]]) if supervised != [] else None
    model, reports = loop(tmp_path / "rows", supervised=supervised)
    again, same = loop(tmp_path / "table", supervised=expected)
    assert torch.equal(weights(model), weights(again)) and reports == same
    assert reports[0].examples == reports[0].sampling.kept + 2 * (supervised != [])


def test_prompts_from_a_generator_are_those_of_every_round(tmp_path):
    model, reports = loop(tmp_path / "list")
    rng, args = np.random.default_rng(4), arguments(tmp_path / "generator")
    other = tiny_model(4, seed=5)
    once = rsf_rounds(other, WORDS, (prompt for prompt in PROMPTS), share_of_a, above(0.5), args, rng, rounds=2, samples_per_prompt=4, sampler=SAMPLER)  # fmt: skip
    assert once == reports and torch.equal(weights(other), weights(model))


def test_rows_of_dates_and_bytes_tell_runs_apart(tmp_path):
    def rows(day, data):
        return [{"prompt": prompt, "day": datetime.date(2024, 1, day), "data": data} for prompt in PROMPTS]

    settings = {"rounds": 1, "samples_per_prompt": 4, "sampler": SAMPLER}

    def run(prompts):
        return rsf_rounds(tiny_model(4, seed=5), WORDS, prompts, share_of_a, above(0.5), arguments(tmp_path), np.random.default_rng(4), **settings)  # fmt: skip

    assert run(rows(1, b"x")) == run(rows(1, b"x"))
    for prompts in (rows(2, b"x"), rows(1, b"y")):
        with pytest.raises(ValueError, match="differs in prompts"):
            run(prompts)


# ---- rules of one's own, weights in any order


class Own:
    """A rule of a user's own, whose text is its address."""

    def log_probability(self, criterion):
        return np.where(np.asarray(criterion) >= 0.5, 0.0, -np.inf)

    def observe(self, criterion):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Other(Own):
    """Another."""


RULES = {"own": Own, "a rate": lambda: at_rate(partial(tilted, ceiling=1.0), 0.5), "a lambda": lambda: at_rate(lambda k: above(k), 0.5)}  # fmt: skip


@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
def test_a_rule_is_compared_by_what_it_is_not_by_where_it_lies(tmp_path, make):
    rules = [make(), make()]  # at two addresses, as in two processes
    model, reports = loop(tmp_path, rule=rules[0])
    resumed, again = loop(tmp_path, rule=rules[1])
    assert again == reports and torch.equal(weights(resumed), weights(model))
    with pytest.raises(ValueError, match="differs in rule"):
        loop(tmp_path, rule=Other())


def turned(model):
    """The same model, the numbers of its matrices in another order."""
    for value in model.parameters():
        if value.ndim == 2:
            value.data = value.data.T.contiguous().T
    return model


def in_one_piece(model):
    """The same model, its weights parts of one tensor."""
    values = list(model.parameters())
    whole = torch.cat([value.detach().flatten() for value in values])
    for value, part in zip(values, whole.split([value.numel() for value in values]), strict=True):
        value.data = part.view(value.shape)
    return model


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("laid", [turned, in_one_piece])
def test_weights_in_any_order_tied_or_not_are_trained_saved_and_gone_on_from(tmp_path, laid, tied, restart):
    def model():
        return tiny_model(4, seed=5, tie_word_embeddings=tied)

    options = {"restart": restart, "rounds": 2}
    expected, reports = loop(tmp_path / "plain", model(), **options)
    odd, same = loop(tmp_path / "odd", laid(model()), **options)
    assert same == reports and torch.equal(weights(odd), weights(expected))
    loop(tmp_path / "odd", laid(model()), **options | {"rounds": 3})  # goes on
    longer, _ = loop(tmp_path / "plain", model(), **options | {"rounds": 3})
    resumed, _ = loop(tmp_path / "odd", laid(model()), **options | {"rounds": 3})
    assert torch.equal(weights(resumed), weights(longer))
    loaded = type(odd).from_pretrained(tmp_path / "odd" / "round-03", dtype=torch.float64)
    assert torch.equal(weights(loaded), weights(longer))


# ---- padding, and TRL's trainer


@pytest.mark.parametrize("pad", [None, "<end>", "a"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_do_not_depend_on_the_tokenizers_padding(tmp_path, pad, side):
    model, reports = loop(tmp_path / "plain")
    words = letters_tokenizer("abc", eos_token="<end>")
    words.padding_side = side
    words.pad_token = pad
    other, args = tiny_model(4, seed=5), arguments(tmp_path / "padded")
    same = rsf_rounds(other, words, PROMPTS, share_of_a, above(0.5), args, np.random.default_rng(4), rounds=2, samples_per_prompt=4, sampler=SAMPLER)  # fmt: skip
    assert [report.loss for report in same] == [report.loss for report in reports]
    assert torch.equal(weights(other), weights(model))
    assert words.padding_side == side and words.pad_token == pad


def test_trls_trainer_learns_the_end_where_the_model_wrote_it_if_it_gets_tokens(tmp_path):
    trl = pytest.importorskip("trl")
    model = tiny_model(4, seed=5)
    kept = kept_of(tmp_path, 1, model, above(0.0))
    assert {True, False} == set(kept["ended"])
    settings = {
        "use_cpu": True,
        "bf16": False,
        "max_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    ends = {}
    for name, data in (("tokens", kept.map(encode, fn_kwargs={"tokenizer": WORDS})), ("texts", kept)):
        args = trl.SFTConfig(str(tmp_path / name), **settings)
        trainer = trl.SFTTrainer(tiny_model(4, seed=5), args, train_dataset=data, processing_class=WORDS)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(kept))])
        labels = [[one for one in row if one != -100] for row in batch["labels"].tolist()]
        ends[name] = [row[-1] == WORDS.eos_token_id for row in labels]
        assert [WORDS.decode(row, skip_special_tokens=True) for row in labels] == kept["completion"][:]
        assert trainer.train().global_step == 1
    assert ends["tokens"] == kept["ended"][:] and all(ends["texts"])
