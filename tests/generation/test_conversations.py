"""Conversations as TRL has them: sampled, judged, learned, and handed to TRL's own trainers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import letters_tokenizer, tiny_gpt2
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from rsf.generation import RewardError, encode, model_sampler, pairs, rsf_rounds, sample_and_judge
from rsf.generation.encoding import prompt_ids
from rsf.rules import above, clipped, constant

HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to.md"
LETTERS = "bcdefs ua\n"
SPECIAL = {"bos_token": "<b>", "eos_token": "<e>", "pad_token": "<p>"}
TURN = "{{ message['content'] }}{{ eos_token }}"
MARKED = (
    "{% if message['role'] == 'assistant' %}{% generation %}" + TURN + "{% endgeneration %}{% else %}" + TURN
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'][0] }} " + TURN + "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
TELLS = TEMPLATE.replace(TURN, MARKED + "{% endif %}")  # which tokens are the assistant's
SYSTEM = {"role": "system", "content": "be"}
PROMPTS = [
    [{"role": "user", "content": "bc"}],
    [SYSTEM, {"role": "user", "content": "d"}],
    [
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "f"},
    ],
]


def chatty(template=TEMPLATE):
    tokenizer = letters_tokenizer(LETTERS, **SPECIAL)
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = chatty()


def gpt2():
    model = tiny_gpt2(len(TOKENIZER), seed=8)
    model.generation_config.eos_token_id = TOKENIZER.eos_token_id
    return model


def many_b(prompts, completions, **_):
    assert all(isinstance(prompt, list) for prompt in prompts)
    return [float(said[0]["content"].count("b")) for said in completions]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def judged_chats(prompts=PROMPTS, reward=many_b, rule=None, folder=None, **options):
    sample = model_sampler(gpt2(), TOKENIZER, max_new_tokens=4, batch_size=3)
    options = {"samples_per_prompt": 8} | options
    rng = np.random.default_rng(5)
    return sample_and_judge(sample, prompts, reward, rule or above(1), rng, folder=folder, **options)


KEPT, JUDGED, REPORT = judged_chats()


def test_a_conversation_is_written_by_the_template_once_and_up_to_where_the_assistant_begins():
    ids = prompt_ids(TOKENIZER, PROMPTS[1])
    assert TOKENIZER.decode(ids) == "<b>s be<e>\nu d<e>\na "
    assert ids.count(TOKENIZER.bos_token_id) == 1


@pytest.mark.parametrize("form", ["list", "rows", "Dataset"])
def test_conversations_come_in_any_form_and_stay_as_they_are(form):
    rows = [{"prompt": prompt, "answer": i} for i, prompt in enumerate(PROMPTS)]
    given = {"list": PROMPTS, "rows": rows, "Dataset": Dataset.from_list(rows)}[form]
    kept, judged, _ = judged_chats(given)
    assert judged["prompt"][::8] == PROMPTS and judged["completion"][:] == JUDGED["completion"][:]
    assert all([one["role"] for one in said] == ["assistant"] for said in judged["completion"])
    assert kept["completion"][:] == [
        said for said, yes in zip(judged["completion"], judged["kept"], strict=True) if yes
    ]


def test_a_conversation_is_sampled_as_the_text_that_the_template_makes_of_it():
    texts = [
        TOKENIZER.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in PROMPTS
    ]
    _, judged, _ = judged_chats(
        texts, reward=lambda prompts, completions: [t.count("b") for t in completions]
    )
    assert [said[0]["content"] for said in JUDGED["completion"]] == judged["completion"][:]
    assert JUDGED["reward"][:] == judged["reward"][:] and JUDGED["tokens"][:] == judged["tokens"][:]
    assert 0 < len(KEPT) < len(JUDGED)


def test_a_folder_that_is_read_again_gives_the_same(tmp_path):
    _, first, _ = judged_chats(folder=tmp_path)
    sample_and_judge_again = judged_chats(folder=tmp_path)[1]
    assert first[:] == sample_and_judge_again[:] == JUDGED[:]


def test_another_template_is_another_key():
    keys = {model_sampler(gpt2(), chatty(one)).key() for one in (TEMPLATE, TELLS)}
    assert len(keys) == 2


@pytest.mark.parametrize("template", [TEMPLATE, TELLS])
def test_what_is_learned_is_what_was_written_and_its_end_only_where_there_was_one(template):
    tokenizer = chatty(template)
    assert 0 < sum(JUDGED["ended"]) < len(JUDGED)
    for row in JUDGED:
        ids, labels = encode(row, tokenizer).values()
        head = prompt_ids(tokenizer, row["prompt"])
        said = tokenizer(row["completion"][0]["content"])["input_ids"]
        learned = [*said, tokenizer.eos_token_id] if row["ended"] else said
        assert ids == head + learned and labels == [-100] * len(head) + learned


def test_of_several_turns_the_templates_own_mask_says_which_are_the_assistants():
    turns = [
        {"role": "assistant", "content": "bb"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e"},
    ]
    row = {"prompt": PROMPTS[0], "completion": turns}
    tokenizer = chatty(TELLS)
    ids, labels = encode(row, tokenizer).values()
    assert tokenizer.decode(ids) == "<b>u bc<e>\na bb<e>\nu d<e>\na e<e>"
    assert tokenizer.decode([one for one in labels if one != -100]) == "bb<e>e<e>"
    with pytest.raises(ValueError, match="completion of 3 messages needs a chat template that marks"):
        encode(row, TOKENIZER)


def test_a_template_that_is_missing_or_changes_its_mind_is_named():
    with pytest.raises(ValueError, match=r"no chat template.*'content': 'bc'"):
        model_sampler(gpt2(), letters_tokenizer(LETTERS, **SPECIAL))(PROMPTS[:1], [np.random.default_rng(0)])
    tokenizer = chatty("{% if add_generation_prompt %}f{% endif %}" + TEMPLATE)
    with pytest.raises(ValueError, match="otherwise once an answer follows"):
        encode(KEPT[0], tokenizer)


def marked(plain):
    """Return TEMPLATE with something else where a message is written."""
    return TEMPLATE.replace(TURN, plain)


def learned(template, text, **row):
    tokenizer = chatty(template)
    ids, labels = encode({"prompt": PROMPTS[0], "completion": assistant(text)} | row, tokenizer).values()
    return tokenizer.decode(ids), tokenizer.decode([one for one in labels if one != -100])


@pytest.mark.parametrize("template", [TEMPLATE, TELLS])
@pytest.mark.parametrize("text", ["", "e", " ", "b ", " b", "b\n"])
def test_any_answer_is_learned_as_it_is(template, text):
    head = "<b>u bc<e>\na "
    assert learned(template, text, ended=True) == (head + text + "<e>", text + "<e>")
    assert learned(template, text, ended=False) == (head + text, text)


def test_where_the_template_has_no_end_the_tokenizers_is_learned():
    bare = marked("{{ message['content'] }}")
    assert learned(bare, "bb", ended=True) == ("<b>u bc\na bb<e>", "bb<e>")
    assert learned(bare, "bb", ended=False) == ("<b>u bc\na bb", "bb")
    assert learned(bare.replace("{{ '\\n' }}", ""), "bb")[1] == "bb<e>"


def test_the_templates_own_mask_decides_on_the_end():
    only_said = "{% generation %}{{ message['content'] }}{% endgeneration %}{{ eos_token }}"
    tight = only_said.replace("{% ", "{%").replace(" %}", "%}")
    whole = MARKED[MARKED.index("{% gen") : MARKED.index("{% else")]
    for tag in (only_said, only_said.replace("{%", "{%-"), tight):
        template = TELLS.replace(whole, tag)
        assert template != TELLS and learned(template, "bb") == ("<b>u bc<e>\na bb<e>", "bb")


@pytest.mark.parametrize("template", [TEMPLATE, TELLS])
def test_an_answer_whose_first_letter_joins_the_prompts_last_is_learned_as_it_was_sampled(template):
    words = [*LETTERS, "\n\n", *SPECIAL.values()]
    raw = Tokenizer(BPE({word: i for i, word in enumerate(words)}, [("\n", "\n")]))
    raw.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **SPECIAL)
    tokenizer.chat_template = template.replace("%}a {%", "%}a\n{%").replace(
        "{{ message['role'][0] }} ", "{{ message['role'][0] }}\n"
    )
    row = {"prompt": PROMPTS[0], "completion": assistant("\nbb")}
    for ended, said in ((True, "\nbb<e>"), (False, "\nbb")):
        ids, labels = encode(row | {"ended": ended}, tokenizer).values()
        head = prompt_ids(tokenizer, row["prompt"])
        assert tokenizer.decode(head) == "<b>u\nbc<e>\na\n" and ids[: len(head)] == head
        assert tokenizer.decode(ids[len(head) :]) == said and labels == [-100] * len(head) + ids[len(head) :]
        assert tokenizer("\n\n")["input_ids"] == [words.index("\n\n")]


def test_of_several_templates_the_default_one_is_used():
    tokenizer = chatty()
    tokenizer.chat_template = {"default": TELLS, "tool_use": "no"}
    assert encode(KEPT[0], tokenizer) == encode(KEPT[0], chatty(TELLS))
    tokenizer.chat_template = {"rag": TELLS, "tool_use": "no"}
    with pytest.raises(ValueError, match=r"refuses the conversation .*no default"):
        encode(KEPT[0], tokenizer)


OTHERWISE = {
    "leaves out": marked("{{ message['content'].split('c')[-1] }}{{ eos_token }}"),
    "puts before": marked("{% if message['role'] == 'assistant' %}f{% endif %}" + TURN),
    "no generation prompt": TEMPLATE.replace("{% if add_generation_prompt %}a {% endif %}", ""),
}


@pytest.mark.parametrize("template", OTHERWISE.values(), ids=OTHERWISE)
def test_a_template_that_writes_the_models_answer_otherwise_is_refused(template):
    with pytest.raises(ValueError, match="writes the model's answer 'bcb' otherwise"):
        learned(template, "bcb", ended=True)
    sampler = model_sampler(gpt2(), chatty(template), max_new_tokens=4)
    if "split" not in template:  # which shows in some answers only
        with pytest.raises(ValueError, match=r"writes the model's answer .* otherwise"):
            sampler.check(PROMPTS, to_train=True)
    sampler.check(PROMPTS)


def test_a_template_that_trims_is_taken():
    trims = marked("{{ message['content'] | trim }}{{ eos_token }}")
    assert learned(trims, " bb ", ended=True)[1] == "bb<e>" and learned(trims, " bb ", ended=False)[1] == "bb"


def test_a_template_that_refuses_a_conversation_is_named_with_it():
    tokenizer = chatty("{{ raise_exception('no system here') }}")
    with pytest.raises(ValueError, match=r"refuses the conversation .*'role': 'system'.*: no system here"):
        model_sampler(gpt2(), tokenizer).check([PROMPTS[1]])


def test_a_tokenizer_that_adds_a_first_token_itself_adds_no_second():
    tokenizer = chatty()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<b> $A", special_tokens=[("<b>", tokenizer.bos_token_id)]
    )
    assert tokenizer("b")["input_ids"][0] == tokenizer.bos_token_id
    assert prompt_ids(tokenizer, PROMPTS[0]) == prompt_ids(TOKENIZER, PROMPTS[0])
    assert [encode(row, tokenizer) for row in KEPT] == [encode(row, TOKENIZER) for row in KEPT]


def test_pairs_need_all_that_was_judged():
    with pytest.raises(ValueError, match=r"need all that was judged, got .*'prompt'"):
        pairs(KEPT)


def test_pairs_are_of_one_prompt_and_the_chosen_has_the_larger_reward():
    found = pairs(JUDGED)
    of = {json.dumps(prompt): [row for row in JUDGED if row["prompt"] == prompt] for prompt in PROMPTS}
    expected = 0
    for rows in of.values():
        yes = sum(row["kept"] for row in rows)
        expected += min(yes, len(rows) - yes)
    assert len(found) == expected > 0 and found.features["chosen"] == JUDGED.features["completion"]
    for pair in found:
        rows = of[json.dumps(pair["prompt"])]
        assert any(row["completion"] == pair["chosen"] and row["kept"] for row in rows)
        assert many_b([pair["prompt"]], [pair["chosen"]]) > many_b([pair["prompt"]], [pair["rejected"]])


@pytest.mark.parametrize("rule, some", [(clipped(2), True), (constant(0.5), False)])
def test_what_was_rejected_by_a_coin_though_it_is_as_good_is_in_no_pair(rule, some):
    _, judged, _ = judged_chats(rule=rule, samples_per_prompt=40)
    found = pairs(judged)
    best = [many_b(found["prompt"], found[column]) for column in ("chosen", "rejected")]
    assert all(chosen > rejected for chosen, rejected in zip(*best, strict=True)) and bool(len(found)) == some
    rewards = [row["reward"] for row in judged if not row["kept"]]
    assert max(rewards) >= min(row["reward"] for row in judged if row["kept"])


def test_what_was_judged_makes_the_same_pairs_once_it_was_a_file(tmp_path):
    def some(prompts, completions):
        return [None if i % 3 == 0 else one for i, one in enumerate(many_b(prompts, completions))]

    _, judged, _ = judged_chats(reward=some, samples_per_prompt=20)
    for write, read, end in (("to_json", "from_json", "jsonl"), ("to_parquet", "from_parquet", "parquet")):
        file = str(tmp_path / f"judged.{end}")
        getattr(judged, write)(file)
        again = getattr(Dataset, read)(file, cache_dir=str(tmp_path))
        assert list(pairs(again)) == list(pairs(judged)) != []


# ---- TRL's trainers


def settings(kind, folder, **options):
    quiet = {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False}
    return kind(str(folder), max_steps=1, per_device_train_batch_size=2, **quiet, **options)


def texts():
    """Return (kept, judged) of prompts that are texts."""
    return judged_chats(["bc", "d", "bf"], lambda prompts, completions: [t.count("b") for t in completions])[
        :2
    ]


FORMS = pytest.mark.parametrize("form", [lambda: (KEPT, JUDGED), texts], ids=["conversations", "texts"])


@FORMS
def test_trls_trainers_take_what_was_kept_and_judged(tmp_path, form):
    trl = pytest.importorskip("trl")
    kept, judged = form()
    of = {"kept": kept, "judged": judged, "tokenizer": TOKENIZER}
    exec(how_to("sft", "kto", "dpo"), of)
    cases = {
        "SFT": (trl.SFTTrainer, trl.SFTConfig, of["sft"], {}),
        "SFT, as it is": (trl.SFTTrainer, trl.SFTConfig, kept, {}),
        "DPO": (trl.DPOTrainer, trl.DPOConfig, of["dpo"], {"ref_model": gpt2()}),
        "KTO": (trl.KTOTrainer, trl.KTOConfig, of["kto"], {"ref_model": gpt2()}),
    }
    for name, (trainer, config, table, more) in cases.items():
        model = gpt2().train()
        run = trainer(
            model,
            args=settings(config, tmp_path / name),
            train_dataset=table,
            processing_class=TOKENIZER,
            **more,
        )
        if name == "SFT":  # TRL learns the labels that encode gives
            rows = [(row["input_ids"], row["labels"]) for row in of["sft"]]
            batch = next(iter(run.get_train_dataloader()))
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                n = int((ids != TOKENIZER.pad_token_id).sum())
                assert (ids[:n].tolist(), labels[:n].tolist()) in rows
        assert run.train().global_step == 1, name
        assert not torch.equal(model.lm_head.weight, gpt2().lm_head.weight), name


def test_rounds_learn_conversations(tmp_path):
    quiet = {
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "learning_rate": 1e-2,
    }
    args = TrainingArguments(str(tmp_path), max_steps=4, per_device_train_batch_size=4, **quiet)
    sampler = lambda model, tokenizer: model_sampler(model, tokenizer, max_new_tokens=4)
    gold = [{"prompt": PROMPTS[0], "completion": [{"role": "assistant", "content": "bbb"}]}]
    tokenizer = chatty(TELLS)
    model, seen = gpt2(), []
    forward = model.forward
    model.forward = lambda *args, **named: seen.append(named) or forward(*args, **named)
    reports = rsf_rounds(
        model, tokenizer, PROMPTS, many_b, above(1), args, np.random.default_rng(2), rounds=2,
        samples_per_prompt=4, supervised=gold, sampler=sampler,
    )  # fmt: skip
    assert len(reports) == 2 and reports[-1].steps == 4
    files = sorted(tmp_path.rglob("judged-*.arrow"))
    kept = [[row for row in Dataset.from_file(str(file)) if row["kept"]] for file in files]
    assert [one.examples for one in reports] == [len(rows) + 1 for rows in kept]
    trained = [encode(row, tokenizer) for row in [*kept[0], *kept[1], *gold]]
    learned = [batch["labels"] for batch in seen if batch.get("labels") is not None]
    assert len(learned) == 8
    for labels in (row.tolist() for batch in learned for row in batch):
        assert any(labels == one["labels"] + [-100] * (len(labels) - len(one["labels"])) for one in trained)


@FORMS
def test_trls_reward_trainer_takes_pairs(tmp_path, form):
    trl = pytest.importorskip("trl")
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(TOKENIZER), n_embd=16, n_layer=1, n_head=2, n_positions=48, num_labels=1
    )
    config.pad_token_id = TOKENIZER.pad_token_id
    model = GPT2ForSequenceClassification(config)
    before = model.score.weight.clone()
    args = settings(trl.RewardConfig, tmp_path)
    run = trl.RewardTrainer(model, args=args, train_dataset=pairs(form()[1]), processing_class=TOKENIZER)
    assert run.train().global_step == 1 and not torch.equal(run.model.score.weight, before)


# ---- TRL's rewards


def trl_rewards():
    """Every function of trl.rewards, with the columns that it needs."""
    rewards = pytest.importorskip("trl.rewards")
    return {
        "accuracy_reward": rewards.accuracy_reward,
        "reasoning_accuracy_reward": rewards.reasoning_accuracy_reward,
        "think_format_reward": rewards.think_format_reward,
        "get_cosine_scaled_reward": rewards.get_cosine_scaled_reward(max_len=100),
        "get_repetition_penalty_reward": rewards.get_repetition_penalty_reward(2),
        "get_soft_overlong_punishment": rewards.get_soft_overlong_punishment(20, 10),
    }


SAID = {
    "right": r"<think>so</think> It is \boxed{7}",
    "wrong": r"It is \boxed{8}",
}
IDS = {"right": list(range(15)), "wrong": [4, 4, 4, 4, 5]}
EXPECTED = {
    "accuracy_reward": [1, 0],
    "reasoning_accuracy_reward": [1, 0],
    "think_format_reward": [1, 0],
    "get_cosine_scaled_reward": [
        0.5 + 0.25 * (1 + math.cos(0.15 * math.pi)),
        -0.5 - 0.25 * (1 + math.cos(0.05 * math.pi)),
    ],
    "get_repetition_penalty_reward": [0, -0.5],
    "get_soft_overlong_punishment": [-0.5, 0],
}


def test_every_reward_of_trl_is_tried():
    from trl.rewards import _import_structure

    assert sorted(name for names in _import_structure.values() for name in names) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_trls_rewards_run_as_they_are(name):
    def sample(prompts, rngs):
        words = [SAID[prompt[-1]["content"]] for prompt in prompts]
        return {"completion": words, "completion_ids": [IDS[prompt[-1]["content"]] for prompt in prompts]}

    prompts = [{"prompt": [{"role": "user", "content": one}], "solution": "$7$"} for one in SAID]
    rng = np.random.default_rng(1)
    _, judged, _ = sample_and_judge(sample, prompts, trl_rewards()[name], above(0), rng, samples_per_prompt=1)
    assert judged["reward"][:] == pytest.approx(EXPECTED[name])


def test_a_solution_that_cannot_be_read_does_not_apply():
    prompts = [{"prompt": PROMPTS[0], "solution": "no number"}]
    _, judged, report = judged_chats(prompts, reward=trl_rewards()["accuracy_reward"])
    assert np.isnan(judged["reward"]).all() and report.skipped == len(judged)


def how_to(*names):
    """Return the Python block of the how-to *Learn from your own samples* that has these names, as code."""
    part = HOW_TO.read_text(encoding="utf-8").split("## Learn from your own samples")[1].split("\n## ")[0]
    blocks = [block.split("```")[0] for block in part.split("```python\n")[1:]]
    (block,) = [block for block in blocks if all(name in block for name in names)]
    return block


def several(correct, style):
    names = {"correct": correct, "style": style}
    exec(how_to("asyncio.run"), names)
    return names["reward"]


async def half(completions, **_):
    return [0.5] * len(completions)


def test_the_how_to_s_ten_lines_run_on_a_conversation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"model": gpt2(), "tokenizer": TOKENIZER, "prompts": PROMPTS, "reward": many_b}
    exec(how_to("import model_sampler").replace("max_new_tokens=64", "max_new_tokens=8"), names)
    assert len(names["judged"]) == 12 and names["kept"]["prompt"][0] in PROMPTS


def test_the_how_to_s_several_rewards_with_weights_and_an_async_one():
    _, judged, _ = judged_chats(reward=several(many_b, half))
    assert judged["reward"][:] == [one + 0.1 * 0.5 for one in JUDGED["reward"]]


def test_of_several_rewards_those_that_apply_are_summed():
    def at_times():
        return lambda prompts, **_: [None if len(prompt) > 1 else 2.0 for prompt in prompts]

    async def never(prompts, **_):
        return [None] * len(prompts)

    _, judged, report = judged_chats(reward=several(at_times(), half))
    assert judged["reward"][:8] == [2.05] * 8 and judged["reward"][8:] == [0.05] * 16 and report.skipped == 0
    _, judged, report = judged_chats(reward=several(at_times(), never))
    assert judged["reward"][:8] == [2.0] * 8 and report.skipped == 16


def test_one_of_several_rewards_that_gives_the_wrong_number_is_named_and_nothing_is_lost(tmp_path):
    async def short(completions, **_):
        return [0.5] * (len(completions) - 1)

    with pytest.raises(RewardError, match=r"raised ValueError: zip\(\) argument 2 is shorter") as caught:
        judged_chats(reward=several(many_b, short), folder=tmp_path)
    assert len(caught.value.completions) == len(JUDGED)
    assert judged_chats(folder=tmp_path)[1][:] == JUDGED[:]


def test_a_list_of_rewards_and_an_async_one_are_told_where_the_recipe_is():
    with pytest.raises(
        ValueError, match=r"must be one function, got .*: of several make one, as in docs/how-to.md"
    ):
        judged_chats(reward=[many_b])
    with pytest.raises(RewardError, match=r"of an async reward make one as in docs/how-to\.md"):
        judged_chats(reward=half)


def test_a_reward_that_needs_what_only_trls_trainer_has_says_so():
    with pytest.raises(RewardError, match=r"missing 1 required .*'trainer_state'"):
        judged_chats(reward=lambda completions, trainer_state, **_: [1.0] * len(completions))


def test_what_goes_into_kto_has_neither_duplicates_nor_what_was_not_judged():
    def some(prompts, completions, **_):
        b = many_b(prompts, completions)
        return [None if len(prompt) > 1 else one for prompt, one in zip(prompts, b, strict=True)]

    _, judged, report = judged_chats(reward=some, dedupe=str, samples_per_prompt=40)
    of = {"kept": KEPT, "judged": judged, "tokenizer": TOKENIZER}
    exec(how_to("sft", "kto", "dpo"), of)
    assert report.duplicates and report.skipped
    assert of["kto"]["label"][:] == [b >= 1 for b in many_b(of["kto"]["prompt"], of["kto"]["completion"])]
    assert len(of["kto"]) == report.samples - report.skipped - report.duplicates


def test_a_reward_is_given_the_tokens_only_if_it_takes_them():
    seen = {}

    def takes(prompts, completions, completion_ids):
        seen["ids"] = completion_ids
        return [0.0] * len(prompts)

    judged_chats(reward=takes, block=256)
    assert [len(ids) for ids in seen["ids"]] == JUDGED["tokens"][:]
    judged_chats(reward=lambda prompts, completions: [0.0] * len(prompts))


def test_the_report_tells_how_many_prompts_reached_what_was_wanted_and_at_what_cost():
    _, judged, report = judged_chats(until_accepted=True, max_samples=6, samples_per_prompt=2)
    of = [[row["kept"] for row in judged if row["prompt"] == prompt] for prompt in PROMPTS]
    enough = [kept for kept in of if sum(kept) >= 2]
    assert (report.wanted, report.reached) == (2, len(enough)) and report.cost == sum(map(len, enough))
    assert f"{len(enough)} reached 2, by {report.cost} of the samples" in str(report)
