"""The sampler as an object: what it refuses, what its key says, devices without float64."""

import functools
import typing

import numpy as np
import pytest
import torch
from helpers import letters_tokenizer, tiny_gpt2
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers.generation import LogitsProcessor, SequenceBiasLogitsProcessor, TopKLogitsWarper

from rsf.generation import ModelSampler, model_sampler
from rsf.generation.drafts import key_of

MODEL, WORDS = tiny_gpt2(), letters_tokenizer()


def coins(number, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(number)]


def test_a_sampler_is_a_function_of_prompts_and_generators_that_gives_columns():
    sample = functools.partial(model_sampler, max_new_tokens=3)(MODEL, WORDS)
    assert isinstance(sample, ModelSampler) and callable(sample)
    drafts = sample(("a", "bc", "a"), coins(3))
    assert list(drafts) == ["completion", "log_probability", "tokens", "completion_ids", "ended"]
    assert [[type(one) for one in values] for values in drafts.values()] == [
        [kind] * 3 for kind in (str, float, int, list, bool)
    ]
    assert sample(["bc"], coins(3)[1:2])["completion"] == drafts["completion"][1:2]


def test_type_hints_resolve():
    for function in (
        model_sampler,
        ModelSampler.__init__,
        ModelSampler.__call__,
        ModelSampler.key,
        ModelSampler.check,
    ):
        assert typing.get_type_hints(function)["return"] is not None


@pytest.mark.parametrize("prompts, number", [("ab", 2), (["a"], 2), (["a", "b"], 1)])
def test_one_generator_for_each_prompt_of_a_list(prompts, number):
    with pytest.raises(ValueError, match="need a list of prompts and a Generator for each"):
        model_sampler(MODEL, WORDS)(prompts, coins(number))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0}, "must be positive, stop strings not empty, got 0, 64, 64"),
        ({"temperature": float("nan")}, "got nan"),
        ({"max_new_tokens": 0}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"stop": ""}, r"stop strings not empty, got .*\[''\]"),
        ({"stop": ["a", ""]}, "stop strings not empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_sampler(MODEL, WORDS, **options)


def test_prompts_are_checked_for_room_to_write_and_for_one_more_position_to_train():
    sample = model_sampler(MODEL, WORDS, max_new_tokens=44)  # 48 positions
    assert sample.check(["abcde", "a"]) == [[0, 1, 2, 3, 4], [0]]
    with pytest.raises(ValueError, match="'abcde' has 5 tokens, with max_new_tokens=44 that is 49 positions"):
        sample.check(["a", "abcde"], to_train=True)
    with pytest.raises(ValueError, match="'' has no tokens"):
        sample.check(["a", ""])


# ---- what the key says


class Uses(LogitsProcessor):
    """A warper with settings of any kind."""

    def __init__(self, **settings):
        self.__dict__ |= settings

    def __call__(self, input_ids, scores):
        return scores


def test_the_key_reads_the_settings_of_a_warper_in_full():
    def key(**settings):
        return model_sampler(MODEL, WORDS, warpers=[Uses(**settings)]).key()

    long = torch.zeros(5000)
    other = long.clone()
    other[2500] = 1.0  # in the middle, which the text of a tensor leaves out
    assert key(bias=long) == key(bias=long.clone()) != key(bias=other)
    assert key(bias=long.numpy()) != key(bias=other.numpy()) and key(a=1) != key(a=2) != key(b=2)
    biased = [
        model_sampler(MODEL, WORDS, warpers=[SequenceBiasLogitsProcessor({(0,): weight})])
        for weight in (1.0, 2.0)
    ]
    assert biased[0].key() != biased[1].key()
    assert model_sampler(MODEL, WORDS, warpers=iter([TopKLogitsWarper(2)])).key() == model_sampler(MODEL, WORDS, warpers=[TopKLogitsWarper(2)]).key()  # fmt: skip


def test_the_key_knows_weights_in_any_order_and_any_precision():
    turned = tiny_gpt2()
    turned.transformer.wpe.weight.data = turned.transformer.wpe.weight.data.T.contiguous().T
    assert not turned.transformer.wpe.weight.is_contiguous()
    keys = [
        model_sampler(model, WORDS).key()
        for model in (MODEL, turned, tiny_gpt2().float(), tiny_gpt2().bfloat16())
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_the_key_does_not_know_where_a_model_lay(tmp_path):
    model = tiny_gpt2()
    keys = [model_sampler(model, WORDS).key()]
    for name in "ab":
        model.save_pretrained(tmp_path / name)
        loaded = type(model).from_pretrained(tmp_path / name, dtype=model.dtype)
        loaded.generation_config = model.generation_config
        keys += [model_sampler(one, WORDS).key() for one in (model, loaded)]
    assert len(set(keys)) == 1


def test_functions_keep_their_own_key():
    def sample(prompts, rngs):
        return ["x"] * len(prompts)

    assert key_of(sample) is None
    sample.key = "always x"
    assert key_of(sample) == "always x"
    sample.key = lambda: "made when asked"
    assert (
        key_of(sample) == "made when asked"
        and key_of(model_sampler(MODEL, WORDS)) == model_sampler(MODEL, WORDS).key()
    )


# ---- models that have learned a prompt


def adapted(config, model=None):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(model or tiny_gpt2(n_positions=96), getattr(peft, config[0])(**config[1]))
    for value in model.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value)
    return model.double().eval()


LEARNED = {
    "prompt tuning": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4}),
    "prefix tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "context-aware": ("CPTConfig", {"cpt_token_ids": [1, 2, 3], "cpt_tokens_type_mask": [1, 1, 1]}),
}


@pytest.mark.parametrize("name, settings", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_models_with_virtual_tokens_are_refused_with_the_reason(name, settings, batch_size):
    model = adapted((name, settings | {"task_type": "CAUSAL_LM"}))
    with pytest.raises(ValueError, match=r"virtual tokens in front of a batch and its padding.*LoRA"):
        model_sampler(model, WORDS, batch_size=batch_size)


WEIGHTS = {
    "LoRA": ("LoraConfig", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "(IA)3": ("IA3Config", {"target_modules": ["c_attn"], "feedforward_modules": []}),
    "prompts inside of layers": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 1}),
}


@pytest.mark.parametrize("name, settings", WEIGHTS.values(), ids=WEIGHTS)
def test_other_adapters_write_the_same_at_every_batch_size(name, settings):
    prompts = ["abcdef"[: 1 + i % 6] * (1 + i % 3) for i in range(40)]
    model = adapted((name, settings | {"task_type": "CAUSAL_LM"}))
    texts = [model_sampler(model, WORDS, max_new_tokens=6, stop="\n", batch_size=n)(prompts, coins(40))["completion"] for n in (1, 7, 40)]  # fmt: skip
    assert texts[0] == texts[1] == texts[2] != model_sampler(tiny_gpt2(n_positions=96), WORDS, max_new_tokens=6, stop="\n")(prompts, coins(40))["completion"]  # fmt: skip


# ---- a device without float64


class Device(TorchFunctionMode):
    """Simulates a device without float64: its tensors lie on the CPU, say "xpu", and are never made or cast to float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs or {}))
        here = any(getattr(one, "here", False) for one in given if isinstance(one, torch.Tensor))
        if getattr(function, "__self__", None) is torch.Tensor.device:
            return torch.device("xpu") if here else function(*args)
        if here and torch.float64 in given:
            raise TypeError("Cannot convert a tensor of this device to float64")
        places = [getattr(one, "type", one) for one in given if isinstance(one, (str, torch.device))]
        leaves = "cpu" in places or getattr(function, "__name__", "") == "cpu"
        on_cpu = tree_map(lambda one: "cpu" if isinstance(one, torch.device) else one, (args, kwargs or {}))
        return tree_map(
            functools.partial(self.mark, here="xpu" in places or (here and not leaves)),
            function(*on_cpu[0], **on_cpu[1]),
        )

    def mark(self, one, here):
        if isinstance(one, torch.Tensor):
            if here and one.dtype == torch.float64:
                raise TypeError("This device has no float64")
            one = one if here or not getattr(one, "here", False) else one.view_as(one)
            one.here = here
        return one


def on_device(model):
    for value in [*model.parameters(), *model.buffers()]:
        value.here = True
    return model


@pytest.mark.parametrize("options", [{}, {"stop": "\n"}, {"warpers": [TopKLogitsWarper(3)]}], ids=["plain", "stop", "warped"])  # fmt: skip
def test_a_device_without_float64_writes_the_same_and_float64_is_met_on_the_cpu_only(options):
    prompts = ["abcdef"[: 1 + i % 6] for i in range(24)]
    expected = model_sampler(tiny_gpt2().float(), WORDS, max_new_tokens=6, **options)(prompts, coins(24))
    model = on_device(tiny_gpt2().float())
    with Device():
        assert model.device.type == "xpu"
        assert model_sampler(model, WORDS, max_new_tokens=6, **options)(prompts, coins(24)) == expected


def test_the_simulated_device_refuses_float64():
    model = on_device(tiny_gpt2().float())
    weight = model.lm_head.weight
    with Device():
        for cast in (
            weight.double,
            lambda: weight.to(torch.float64),
            lambda: weight.to("cpu", torch.float64),
        ):
            with pytest.raises(TypeError):
                cast()
        with pytest.raises(TypeError):
            torch.zeros(1, dtype=torch.float64, device=weight.device)
        assert weight.to("cpu").to(torch.float64).device.type == "cpu"
