"""A chat model and its own verified answers: the tiny model, the arms at equal compute, files held to the protocol, and TRL."""

import json
import tomllib

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset

from rsf import __main__
from rsf.generation import model_sampler, sample_and_judge
from rsf.lab import data, models, records
from rsf.lab.report.word_problems import compare
from rsf.lab.tasks import answers, word_problems
from rsf.rules import above

SMALL = {"questions": 10, "validation": 4, "test": 6, "test_samples": 4, "shots": 1, "samples": 6, "tokens": 4, "rank": 4, "learning_rates": [0.03], "batch_size": 8, "sampling_batch_size": 64, "dtype": "float64", "bf16": False, "temperature": 1.0}  # fmt: skip
SETTINGS = records.protocol("gsm8k-chat") | SMALL
PROBLEMS = data.load("gsm8k", source="embedded")


def tiny(seed=0):
    return models.load("chat", None, np.random.default_rng(seed), source="embedded")


CHECKPOINT = tiny()


def states_a_number(prompts, completions, **_):
    return [
        float(any(sign in "0123456789" for sign in text)) for text in completions
    ]  # random letters earn it


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def test_the_embedded_chat_model_comes_from_numpy_alone_and_says_what_it_is():
    assert CHECKPOINT.source == "chat: embedded, a tiny GPT-2 that was never trained"
    torch.manual_seed(1)
    assert torch.equal(weights(tiny().model), weights(CHECKPOINT.model)) and not torch.equal(
        weights(tiny(1).model), weights(CHECKPOINT.model)
    )
    drawn = np.random.default_rng(0).normal(0.0, 0.3, (32, 96))  # the first of its names: attention's
    assert np.array_equal(
        CHECKPOINT.model.transformer.h[0].attn.c_attn.weight.detach().numpy(), drawn.astype(np.float32)
    )


def test_it_reads_and_writes_letter_by_letter():
    words, text = CHECKPOINT.tokenizer, "Q: 3 + 4?\n~ #### 7"
    assert words.decode(words(text)["input_ids"]) == text and len(words(text)["input_ids"]) == len(text)
    assert (
        words.decode(words("caf\u00e9")["input_ids"]) == "caf?"
        and words.decode([words.eos_token_id], skip_special_tokens=True) == ""
    )
    assert CHECKPOINT.model.generation_config.eos_token_id == words.eos_token_id == len(words) - 1


def test_the_chat_model_of_the_hub_is_pinned_and_a_local_one_is_read(tmp_path, monkeypatch):
    asked = []

    def hub(load_it, repository, revision, kind, impatient):
        asked.append((repository, revision, kind))
        raise data.SourceUnavailable("offline")

    monkeypatch.setattr(models, "from_hub", hub)
    monkeypatch.setenv("RSF_MODELS", str(tmp_path))
    for part in CHECKPOINT[:2]:
        part.save_pretrained(tmp_path / "stories260K")
    found = models.load("chat", None, np.random.default_rng(5), source="hub,local")
    assert asked == [("Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775", "model")]
    assert found.source == "chat: local copy of stories260K" and torch.equal(
        weights(found.model), weights(CHECKPOINT.model)
    )
    for name, labels in (("chat", 2), ("bert", None), ("chta", None)):
        with pytest.raises(ValueError, match="there is no checkpoint"):
            models.load(name, labels, np.random.default_rng(0))


def test_gsm8k_of_the_hub_is_its_main_part_at_a_pinned_revision(monkeypatch):
    both = {
        split: Dataset.from_dict({"question": ["?"], "answer": ["#### 1"]}) for split in ("train", "test")
    }
    called = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *place, revision: called.append((*place, revision)) or both
    )
    assert data.load("gsm8k", source="hub").source == "gsm8k: hub, openai/gsm8k at e53f0488 (1 train, 1 test)"
    assert called == [("openai/gsm8k", "main", "e53f048856ff4f594e959d75785d2c2d37b678ee")]


def test_adapters_change_nothing_at_first_and_alone_are_trained():
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = CHECKPOINT.model(ids).logits
        model = models.with_lora(tiny().model, 4, np.random.default_rng(2))
        assert torch.equal(model.eval()(ids).logits, before)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    first = sorted(name for name in trained if "lora_A" in name)[0]
    expected = np.random.default_rng(2).normal(0.0, 0.25, tuple(trained[first].shape)).astype(np.float32)
    assert np.array_equal(trained[first].detach().numpy(), expected)


def test_questions_that_leave_no_room_are_left_out():
    room = CHECKPOINT.model.config.max_position_embeddings
    rows = Dataset.from_dict(
        {"question": ["x" * n for n in (10, room - 110, room)], "answer": ["#### 1"] * 3}
    )
    length = len(answers.prompt("", CHECKPOINT.tokenizer))
    assert (
        len(word_problems.fitting(rows, CHECKPOINT, 110 - length)) == 2
        and len(word_problems.fitting(rows, CHECKPOINT, 111 - length)) == 1
    )


@pytest.fixture(scope="module")
def runs():
    numbers = {}
    for arm in SETTINGS["arms"]:
        numbers[arm] = word_problems.measure(
            arm, CHECKPOINT, PROBLEMS, states_a_number, SETTINGS, 3, numbers.get("verified")
        )
    return numbers


def test_every_arm_of_the_protocol_runs_and_the_model_that_came_is_left_as_it_was(runs):
    assert set(runs) == set(SETTINGS["arms"]) and torch.equal(
        weights(CHECKPOINT.model), weights(tiny().model)
    )
    assert all(
        len(one["right"]) == 6 and one["accuracy"] == pytest.approx(np.mean(one["right"]), abs=1e-4)
        for one in runs.values()
    )
    assert json.loads(json.dumps(runs)) == runs


def test_its_own_verified_answers_teach_it_what_was_rewarded_and_blind_ones_do_not(runs):
    assert runs["verified"]["accuracy"] > runs["zero-shot"]["accuracy"] + 0.2
    assert runs["verified"]["accuracy"] > runs["blind"]["accuracy"] + 0.2
    assert runs["blind"]["accuracy"] < runs["zero-shot"]["accuracy"] + 0.2


def test_the_controls_have_the_compute_and_the_share_of_verified(runs):
    spent, kept, samples = (runs["verified"][name] for name in ("forward_passes", "kept", "samples"))
    longest = 8 * max(
        len(answers.prompt(q, CHECKPOINT.tokenizer)) + len(a)
        for q, a in zip(*(PROBLEMS.train[x] for x in ("question", "answer")), strict=True)
    )
    assert samples == runs["blind"]["samples"] == 2 * 10 * 6 and kept == sum(
        row[2] for row in runs["verified"]["rounds"]
    )
    assert -0.01 * spent < runs["supervised"]["forward_passes"] - spent < 3 * longest  # whole steps
    assert abs(runs["blind"]["kept"] - kept) < 3.3 * np.sqrt(kept * (1 - kept / samples))
    assert runs["zero-shot"]["forward_passes"] == runs["few-shot"]["forward_passes"] == 0


def test_three_passes_cost_three_times_one_and_nothing_is_decoded(runs):
    one, three = (runs[f"supervised-{n}"]["forward_passes"] for n in (1, 3))
    order = np.random.default_rng(3).permutation(44)[5:15]  # after one shot and four for validation
    rows = PROBLEMS.train.select(order)
    tokens = sum(
        len(answers.prompt(q, CHECKPOINT.tokenizer)) + len(answers.rationale(a)) + 1
        for q, a in zip(rows["question"], rows["answer"], strict=True)
    )
    assert (one, three) == (3 * tokens, 9 * tokens)


def test_each_arm_takes_the_rate_that_does_best_on_the_validation_part():
    few = SETTINGS | {"learning_rates": [1e-9, 0.03, 1e-8], "questions": 6, "validation": 6, "test": 2}
    one = word_problems.measure("verified", CHECKPOINT, PROBLEMS, states_a_number, few, 3)
    assert (
        one["learning_rate"] == 0.03 == float(max(one["validation"], key=one["validation"].get))
        and len(one["validation"]) == 3
    )


def test_few_shot_shows_examples_from_train_and_zero_shot_none():
    shown = {}
    for arm in ("zero-shot", "few-shot"):

        def remember(prompts, completions, arm=arm, **_):
            shown[arm] = prompts[0]
            return [0.0] * len(completions)

        word_problems.measure(
            arm, CHECKPOINT, PROBLEMS, remember, SETTINGS | {"test": 1, "test_samples": 1, "shots": 2}, 3
        )
    assert [shown[arm].count("####") for arm in ("zero-shot", "few-shot")] == [1, 3] and "<<" not in shown[
        "few-shot"
    ]
    examples = PROBLEMS.train.select(np.random.default_rng(3).permutation(44)[:2])["question"]
    assert all(one in shown["few-shot"] and one not in shown["zero-shot"] for one in examples)


def test_one_test_sample_is_the_likeliest_whatever_the_coins():
    asked = word_problems.ask(PROBLEMS.test.select(range(3)), CHECKPOINT.tokenizer)
    told = []

    def remember(prompts, completions, **_):
        told.append(list(completions))
        return [0.0] * len(completions)

    for seed in (0, 1):
        word_problems.score(
            CHECKPOINT.model,
            CHECKPOINT.tokenizer,
            asked,
            remember,
            SETTINGS | {"test_samples": 1},
            np.random.default_rng(seed),
        )
    ids = torch.tensor([CHECKPOINT.tokenizer(asked["prompt"][0])["input_ids"]])
    greedy = CHECKPOINT.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0
    )[0, ids.shape[1] :]
    assert told[0] == told[1] and told[0][0] == CHECKPOINT.tokenizer.decode(greedy, skip_special_tokens=True)


@pytest.fixture
def small_protocol(tmp_path, monkeypatch):
    lines = [
        f"{name} = {json.dumps(value)}"
        for name, value in (SMALL | {"model": "embedded", "like": "gsm8k-chat", "seeds": [0, 1]}).items()
    ]
    text = (
        (records.RESULTS / "protocol.toml").read_text(encoding="utf-8")
        + "\n[gsm8k-small]\n"
        + "\n".join(lines)
    )
    assert tomllib.loads(text)
    (tmp_path / "protocol.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(
        word_problems.data, "load", lambda name, source: PROBLEMS if source == "hub,local" else None
    )


def test_the_command_writes_valid_files_and_the_controls_wait_for_verified(small_protocol, capsys, tmp_path):
    assert records.status("gsm8k-small") == "gsm8k-small: not yet run"
    with pytest.raises(FileNotFoundError):
        word_problems.run("gsm8k-small", "supervised", 0)
    arms = ["zero-shot", "verified", "supervised"]
    __main__.main(["experiment", "gsm8k-small", "--arms", *arms, "--seeds", "0"])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 3 and "gsm8k-small verified 0: accuracy" in printed
    found = records.read("gsm8k-small")
    assert (
        set(found) == set(arms)
        and found["verified"][0]["data"] == PROBLEMS.source
        and found["verified"][0]["model"] == CHECKPOINT.source
    )
    __main__.main(["experiment", "gsm8k-small", "--arms", *arms, "--seeds", "0"])
    assert capsys.readouterr().out.startswith(
        "gsm8k-small: 3 of 3 runs are stored"
    )  # goes on where it stopped


def test_the_comparison_is_by_question_for_one_seed_and_by_seed_for_more():
    def record(right, spent=7):
        return {"numbers": {"right": right, "forward_passes": spent}}

    one = compare(
        {"verified": {0: record([1, 1, 0, 1])}, "blind": {0: record([0, 1, 0, 0]), 1: record([1, 1, 1, 1])}}
    )
    assert one[0] == "verified     0.7500 [-0.0456, 1.5456],           7 passes"
    assert (
        "verified minus it 0.5000 [-0.4187, 1.4187]" in one[1]
    )  # by hand: mean 1/2, sd 0.57735 / 2, t(3) = 3.1824
    two = compare(
        {"verified": {0: record([1, 1]), 1: record([1, 0])}, "blind": {0: record([0, 1]), 1: record([0, 0])}}
    )
    assert "verified minus it 0.5000 [0.5000, 0.5000]" in two[1]


def test_the_experiment_of_the_protocol_is_not_yet_run_and_says_so():
    section = records.protocol("gsm8k-chat")
    assert records.status("gsm8k-chat") == "gsm8k-chat: not yet run"
    assert section["arms"].index("verified") < min(
        section["arms"].index(arm) for arm in ("blind", "supervised")
    )


def test_what_was_kept_trains_in_trl_without_conversion(tmp_path):
    trl = pytest.importorskip("trl")
    checkpoint = tiny()
    sample = model_sampler(checkpoint.model, checkpoint.tokenizer, max_new_tokens=4)
    asked = word_problems.ask(PROBLEMS.train.select(range(8)), checkpoint.tokenizer)
    kept, _, report = sample_and_judge(
        sample, asked, states_a_number, above(1), np.random.default_rng(4), samples_per_prompt=6
    )
    args = trl.SFTConfig(output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=8, learning_rate=0.01, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, bf16=False, gradient_checkpointing=False)  # fmt: skip
    trainer = trl.SFTTrainer(
        checkpoint.model, args, train_dataset=kept, processing_class=checkpoint.tokenizer
    )
    losses = [row["loss"] for row in trainer.train() and trainer.state.log_history if "loss" in row]
    batch = next(iter(trainer.get_train_dataloader()))
    learned = batch["labels"] != -100
    assert report.kept == len(trainer.train_dataset)
    assert learned.sum(1).min() >= 1 and learned.sum(1).max() <= 5  # the completion and its end
    assert not torch.equal(weights(checkpoint.model).cpu(), weights(CHECKPOINT.model)) and all(
        np.isfinite(losses)
    )
