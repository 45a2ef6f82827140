"""One loss per example of every common head, held against the model's own mean."""

from types import SimpleNamespace

import peft
import pytest
import torch
import transformers as tf
from heads import HEADS, N, T, bert, labels, made, some_tokens, tokens, trained
from helpers import same_weights

from rsf.selection import per_example_error, per_example_loss
from rsf.selection.losses import (
    IGNORED,
    SPAN,
    as_the_model_does,
    check_against_own,
    is_unlabelled,
    refuse_virtual_tokens,
)

FLOAT32 = {
    "rtol": 1e-4,
    "atol": 1e-6,
    "check_dtype": False,
}  # the library computes some of these losses in float32 whatever the model's
IN_FLOAT32 = ("causal", "causal with images", "CTC", "CTC sum")


def scored(name, change=lambda inputs: None):
    """Return model, inputs, outputs and the losses (N,) of a head, its inputs changed beforehand."""
    model, inputs = made(name)
    change(inputs)
    with torch.no_grad():
        outputs = model(**inputs)
        return model, inputs, outputs, per_example_loss(model, inputs, outputs)


@pytest.mark.parametrize("name", HEADS)
def test_the_mean_is_the_models_own_loss_and_each_is_that_of_the_example_alone(name):
    model, inputs, outputs, loss = scored(name)
    assert loss.shape == (N,) and loss.std() > 1e-4
    whole = loss.sum() if name == "CTC sum" else loss.mean()
    torch.testing.assert_close(
        whole, outputs.loss, **(FLOAT32 if name in IN_FLOAT32 else {"rtol": 1e-10, "atol": 0})
    )
    for i in range(N):
        with torch.no_grad():
            alone = model(**{key: value[i : i + 1] for key, value in inputs.items()}).loss
        torch.testing.assert_close(
            loss[i], alone, **(FLOAT32 if name in IN_FLOAT32 else {"rtol": 1e-10, "atol": 1e-12})
        )


@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_of_the_whole_is_the_models_own(name):
    model, inputs = made(name)
    outputs = model(**inputs)
    weights = [p for p in model.parameters() if p.requires_grad]
    own = torch.autograd.grad(outputs.loss, weights, retain_graph=True, allow_unused=True)
    ours = torch.autograd.grad(
        as_the_model_does(model, inputs, per_example_loss(model, inputs, outputs)), weights, allow_unused=True
    )
    for a, b in zip(own, ours, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(
                a, b, **(FLOAT32 if name in IN_FLOAT32 else {"rtol": 1e-8, "atol": 1e-12})
            )


def test_each_examples_tokens_weigh_by_its_own_number_of_labels():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 3])
    targets = torch.tensor([[0, -100, 0], [-100, -100, -100]])
    model = tf.BertForTokenClassification(bert(2))
    loss = per_example_loss(model, {"labels": targets}, SimpleNamespace(logits=logits))
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(1.0)))) / 2
    torch.testing.assert_close(loss, torch.stack([expected, torch.tensor(0.0)]))


@pytest.mark.parametrize(
    "name", ["tokens", "masked", "causal", "causal with images", "sequence to sequence", "Marian"]
)
def test_with_unlike_numbers_of_labels_the_whole_is_still_the_models_own_but_the_mean_is_not(name):
    def some_without(inputs):
        inputs["labels"][0, 3:], inputs["labels"][1] = -100, -100

    model, inputs, outputs, loss = scored(name, some_without)
    torch.testing.assert_close(as_the_model_does(model, inputs, loss), outputs.loss, **FLOAT32)
    assert loss[1] == 0 and abs(loss.mean() - outputs.loss) > 1e-2


@pytest.mark.parametrize("name", HEADS)
def test_a_loss_that_the_models_own_is_not_made_of_is_noticed(name):
    model, inputs, outputs, loss = scored(name)
    check_against_own(model, inputs, outputs, loss)
    with pytest.raises(ValueError, match=r"criterion=callable"):
        check_against_own(model, inputs, outputs, 1.05 * loss)


def test_a_decoder_that_does_not_shift_its_labels_is_noticed():
    torch.manual_seed(0)
    model = tf.BartForCausalLM(
        tf.BartConfig(
            d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=40
        )
    )
    torch.nn.init.normal_(model.lm_head.weight)  # a uniform guess would have the same loss for any labels
    inputs = tokens(torch.Generator().manual_seed(1)) | {
        "labels": some_tokens(torch.Generator().manual_seed(2), 40)
    }
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    with pytest.raises(ValueError, match=r"BartForCausalLM reports the loss .* criterion=callable"):
        check_against_own(model, inputs, outputs, per_example_loss(model, inputs, outputs))


def test_errors_are_those_of_the_predictions():
    def error(name, **changed):
        model, inputs, outputs, _ = scored(name)
        return per_example_error(
            model, inputs | {key: f(outputs, inputs) for key, f in changed.items()}, outputs
        )

    def best(outputs, _):
        return outputs.logits.argmax(-1)

    def first_wrong(outputs, _):
        return torch.cat([1 - outputs.logits.argmax(-1)[:1].clamp(max=1), outputs.logits.argmax(-1)[1:]])

    def next_token(outputs, _):
        return torch.cat([torch.zeros(N, 1, dtype=torch.long), outputs.logits.argmax(-1)[:, :-1]], 1)

    for name in ("sequence", "image", "choice", "tokens", "masked", "sequence to sequence"):
        assert error(name, labels=best).tolist() == [0] * N
    assert error("sequence", labels=first_wrong).tolist() == [1] + [0] * (N - 1)
    assert error("causal", labels=next_token).tolist() == [0] * N and error("causal", labels=best).sum() > 0
    assert (
        error("several labels", labels=lambda outputs, _: (outputs.logits > 0).double()).tolist() == [0] * N
    )
    start = {
        "start_positions": lambda o, _: o.start_logits.argmax(-1),
        "end_positions": lambda o, _: o.end_logits.argmax(-1),
    }
    assert error("question", **start).tolist() == [0] * N
    assert (
        error(
            "question",
            start_positions=start["start_positions"],
            end_positions=lambda o, _: (o.end_logits.argmax(-1) + 1) % T,
        ).min()
        == 1
    )
    for name in ("regression", "CTC"):
        with pytest.raises(ValueError, match=name if name == "CTC" else "regression"):
            error(name)


def test_what_is_missing_is_named():
    model, inputs = made("sequence")
    with pytest.raises(ValueError, match=r"no column 'labels', only \['attention_mask', 'input_ids'\]"):
        per_example_loss(model, tokens(torch.Generator()), SimpleNamespace(logits=torch.zeros(N, 3)))
    with pytest.raises(ValueError, match="returned no logits"):
        per_example_loss(model, inputs, SimpleNamespace(logits=None))
    with pytest.raises(ValueError, match="returned no start_logits"):
        per_example_loss(tf.BertForQuestionAnswering(bert(2)), inputs, SimpleNamespace())
    with pytest.raises(ValueError, match=r"got \(5, 2, 2\) and \(5,\)"):
        per_example_loss(model, inputs, SimpleNamespace(logits=torch.zeros(N, 2, 2)))


def test_half_precision_logits_are_taken_to_float32():
    model, inputs = made("sequence")
    loss = per_example_loss(model, inputs, SimpleNamespace(logits=torch.randn(N, 3).bfloat16()))
    assert loss.dtype == torch.float32


# ---- labels that are not there


def cut(inputs, start=(), end=()):
    """Let the answers of some questions lie behind the text, on one side or both."""
    inputs["start_positions"][list(start)] = T
    inputs["end_positions"][list(end)] = T + 5


def test_an_answer_that_is_cut_off_counts_as_little_as_in_the_models_own_loss():
    model, inputs, outputs, loss = scored("question", lambda inputs: cut(inputs, [1, 3], [1, 3]))
    torch.testing.assert_close(as_the_model_does(model, inputs, loss), outputs.loss)
    assert (loss == 0).tolist() == [False, True, False, True, False]
    assert per_example_error(model, inputs, outputs)[[1, 3]].tolist() == [0, 0]
    check_against_own(model, inputs, outputs, loss)
    with pytest.raises(ValueError, match="criterion=callable"):
        check_against_own(model, inputs, outputs, 1.05 * loss)


def test_of_an_answer_that_is_cut_off_on_one_side_the_other_side_counts_and_the_check_waits():
    whole = scored("question")[3]
    model, inputs, outputs, loss = scored("question", lambda inputs: cut(inputs, [], [0]))
    assert not check_against_own(
        model, inputs, outputs, 1.05 * loss
    )  # the model's own weighs its starts otherwise
    start = torch.nn.functional.cross_entropy(
        outputs.start_logits, inputs["start_positions"], reduction="none"
    )
    torch.testing.assert_close(loss, torch.cat([start[:1], whole[1:]]))
    inputs["end_positions"][0] = outputs.end_logits[0].argmin()  # labelled again: wrong
    assert per_example_error(model, inputs, outputs)[0] == 1


@pytest.mark.parametrize("name", ["sequence", "choice", "image", "next sentence"])
def test_an_example_without_a_class_counts_as_little_as_in_the_models_own_loss(name):
    def some_without(inputs):
        inputs["labels"][[0, 2]] = IGNORED

    model, inputs, outputs, loss = scored(name, some_without)
    torch.testing.assert_close(as_the_model_does(model, inputs, loss), outputs.loss)
    assert loss[[0, 2]].tolist() == per_example_error(model, inputs, outputs)[[0, 2]].tolist() == [0, 0]


def test_a_label_of_minus_100_is_a_number_where_numbers_are_predicted():
    def cold(inputs):
        inputs["labels"][0] = -100

    model, inputs, outputs, loss = scored("regression", cold)
    torch.testing.assert_close(as_the_model_does(model, inputs, loss), outputs.loss)
    assert loss[0] > 9000 and not is_unlabelled(model, inputs)


def without(name):
    """Take all labels of a head away."""

    def change(inputs):
        cut(inputs, range(N), range(N)) if name == "question" else inputs["labels"].fill_(IGNORED)

    return change


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"several labels", "regression"}))
def test_data_without_a_single_label_is_told_and_is_no_evidence(name):
    model, inputs, outputs, loss = scored(name, without(name))
    assert is_unlabelled(model, inputs) and not is_unlabelled(*made(name))
    if "CTC" not in name:  # there the empty text is a target like others
        assert loss.tolist() == [0] * N and not check_against_own(model, inputs, outputs, loss)


def test_one_token_has_no_next_one_and_what_has_no_label_columns_is_not_unlabelled():
    model, inputs = made("causal")
    assert is_unlabelled(model, {name: value[:, :1] for name, value in inputs.items()})
    assert not is_unlabelled(model, {"input_ids": inputs["input_ids"]})
    assert not is_unlabelled(torch.nn.Linear(2, 2), {"labels": ["a", "b"]})
    assert not is_unlabelled(*made("several labels")) and not is_unlabelled(*made("regression"))


# ---- when is a comparison with the model's own loss decisive?


def weighted(logits, targets, weight):
    """Return outputs as of a classifier that weighs its classes."""
    loss = torch.nn.functional.cross_entropy(logits, targets, weight=weight)
    return SimpleNamespace(logits=logits, loss=loss)


def look(logits, targets, weight):
    """Return what the check says of a classifier that weighs its classes."""
    model, outputs = tf.BertForSequenceClassification(bert()), weighted(logits, targets, weight)
    loss = per_example_loss(model, {"labels": targets}, outputs)
    return check_against_own(model, {"labels": targets}, outputs, loss)


SKEWED = torch.tensor([1.0, 9.0, 1.0])


def test_a_fresh_head_decides_nothing_and_once_its_losses_differ_other_weights_are_noticed():
    targets = torch.tensor([0, 1, 0, 1, 0])
    differing = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0.5, 0, 0], [0, 0, 0], [2, 0, 0]])
    assert not look(torch.zeros(N, 3), targets, SKEWED) and not look(torch.zeros(N, 3), targets, None)
    assert not look(0.02 * differing, targets, SKEWED)
    with pytest.raises(ValueError, match=r"reports the loss .* criterion=callable"):
        look(differing, targets, SKEWED)
    assert look(differing, targets, None)


def test_a_batch_of_one_class_decides_nothing_but_another_loss_altogether_is_noticed_in_it():
    logits, targets = (
        torch.randn(N, 3, generator=torch.Generator().manual_seed(3)),
        torch.ones(N, dtype=torch.long),
    )
    assert not look(logits, targets, SKEWED) and not look(logits, targets, None)
    model, outputs = tf.BertForSequenceClassification(bert()), weighted(logits, targets, None)
    loss = per_example_loss(model, {"labels": targets}, outputs)
    outputs.loss = outputs.loss + 5
    with pytest.raises(ValueError, match="criterion=callable"):
        check_against_own(model, {"labels": targets}, outputs, loss)
    assert not check_against_own(
        model, {"labels": targets[:1]}, weighted(logits[:1], targets[:1], None), loss[:1]
    )


def test_where_the_check_is_decisive_twice_the_weight_of_a_class_would_have_been_noticed():
    rng, decisive = torch.Generator().manual_seed(5), 0
    for scale in (0.05, 0.2, 0.5, 1.0, 3.0):
        for _ in range(200):
            logits, targets = scale * torch.randn(8, 3, generator=rng), labels(rng, 8)
            if look(logits, targets, None):
                decisive += 1
                worst = targets[torch.nn.functional.cross_entropy(logits, targets, reduction="none").argmax()]
                with pytest.raises(ValueError, match="criterion=callable"):
                    look(logits, targets, torch.ones(3).index_fill(0, worst, 2.0))
    assert 200 < decisive < 800


def test_a_weight_of_the_positive_labels_is_noticed_as_soon_as_there_is_one():
    model, inputs, outputs, _ = scored("several labels")
    for targets, seen in ((torch.zeros(N, 3).double(), False), (inputs["labels"], True)):
        outputs.loss = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.logits, targets, pos_weight=torch.full((3,), 4.0)
        )
        loss = per_example_loss(model, {"labels": targets}, outputs)
        if seen:
            with pytest.raises(ValueError, match="criterion=callable"):
                check_against_own(model, {"labels": targets}, outputs, loss)
        else:
            assert not check_against_own(model, {"labels": targets}, outputs, loss)


@pytest.mark.parametrize("name", HEADS)
def test_with_losses_that_differ_the_check_is_decisive_for_every_head_but_a_sum(name):
    model, inputs, outputs, _ = scored(name)
    rng = torch.Generator().manual_seed(7)
    for key, value in outputs.items():
        if "logits" in key:
            outputs[key] = 4 * torch.randn(value.shape, generator=rng).double()
    loss = per_example_loss(model, inputs, outputs)
    outputs.loss = as_the_model_does(model, inputs, loss)
    assert check_against_own(model, inputs, outputs, loss)
    flat = torch.full_like(loss, 0.7)
    outputs.loss = as_the_model_does(model, inputs, flat)
    assert not check_against_own(model, inputs, outputs, flat)


# ---- devices, precisions, wrappers


class WithoutFloat64(torch.Tensor):
    """A tensor on a device that has no float64, as Apple's; what leaves it by `cpu` is an ordinary one. Not run on MPS."""

    @classmethod
    def __torch_function__(cls, function, types, words=(), more=None):
        result = super().__torch_function__(function, types, words, more or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, cls) and value.dtype == torch.float64:
                raise TypeError("this device has no float64")
        return result


@pytest.mark.parametrize("name", HEADS)
def test_no_float64_is_asked_of_a_device_that_has_none(name):
    model, inputs = made(name)
    model, inputs = (
        model.float(),
        {
            key: value.to(torch.float32) if value.is_floating_point() else value
            for key, value in inputs.items()
        },
    )
    inputs = {key: value.as_subclass(WithoutFloat64) for key, value in inputs.items()}
    outputs = model(**inputs)
    loss = per_example_loss(model, inputs, outputs)
    assert isinstance(loss, WithoutFloat64)
    as_the_model_does(model, inputs, loss).backward()
    check_against_own(model, inputs, outputs, loss)
    if name != "regression" and "CTC" not in name:
        per_example_error(model, inputs, outputs)
    with pytest.raises(TypeError, match="no float64"):  # the counter-check
        loss.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HEADS)
def test_a_model_in_half_precision_passes_the_check(name, dtype):
    model, inputs = made(name)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        outputs = model.to(dtype)(**inputs)
    loss = per_example_loss(model, inputs, outputs)
    assert loss.dtype == torch.float32 and isinstance(check_against_own(model, inputs, outputs, loss), bool)


@pytest.mark.parametrize(
    "task, name", [("SEQ_CLS", "sequence"), ("CAUSAL_LM", "causal"), ("TOKEN_CLS", "tokens")]
)
def test_below_peft_and_compile_the_head_is_the_same(task, name):
    plain, inputs, outputs, loss = scored(name)
    lora = peft.LoraConfig(task_type=task, r=2, target_modules=["c_attn"] if name == "causal" else ["query"])
    adapted = peft.get_peft_model(plain, lora).eval()
    for model in (
        torch.compile(made(name)[0], backend="eager"),
        adapted,
        torch.compile(adapted, backend="eager"),
    ):
        torch.testing.assert_close(per_example_loss(model, inputs, outputs), loss)
        assert check_against_own(model, inputs, outputs, loss) in (True, False)


PROMPTS = {
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
}


@pytest.mark.parametrize(
    "task, name", [("CAUSAL_LM", "causal"), ("SEQ_CLS", "sequence"), ("TOKEN_CLS", "tokens")]
)
@pytest.mark.parametrize("kind", PROMPTS)
def test_virtual_tokens_before_the_text_are_refused_with_the_reason(kind, task, name):
    model, inputs = made(name)
    inputs = {
        key: value[:, :3].contiguous() if value.ndim > 1 else value for key, value in inputs.items()
    }  # room for four more
    more = {"encoder_hidden_size": 16} if kind == "P_TUNING" else {}
    model = peft.get_peft_model(model.float(), PROMPTS[kind](task_type=task, num_virtual_tokens=4, **more))
    if kind != "PREFIX_TUNING":
        with pytest.raises(ValueError, match=f"{kind} puts 4 virtual tokens .* take LoRA or prefix tuning"):
            refuse_virtual_tokens(model)
        return
    refuse_virtual_tokens(model)
    outputs = model.eval()(**inputs)
    loss = per_example_loss(model, inputs, outputs)
    torch.testing.assert_close(as_the_model_does(model, inputs, loss), outputs.loss)


def test_other_adapters_are_not_refused():
    model = peft.get_peft_model(
        made("causal")[0], peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"])
    )
    refuse_virtual_tokens(model)
    refuse_virtual_tokens(torch.compile(model, backend="eager"))
    refuse_virtual_tokens(torch.nn.Linear(2, 2))


def test_labels_that_are_texts_are_named_as_a_cause():
    rows = [{"input_ids": [1, 2], "labels": "good"}] * 2
    batch = tf.default_data_collator(rows)
    with pytest.raises(
        ValueError, match=r"no column 'labels', only \['input_ids'\].*give numbers.*texts without a word"
    ):
        per_example_loss(made("sequence")[0], batch, SimpleNamespace(logits=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="no column 'start_positions'"):
        answers = SimpleNamespace(**dict.fromkeys(SPAN.values(), torch.zeros(2, 2)))
        per_example_loss(made("question")[0], batch, answers)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_steps_and_a_killed_run_goes_on_bit_for_bit(name, tmp_path):
    """A Trainer that resumes an image model of transformers 5.23 finds no weights of its layers: they are saved by older names."""
    straight, killed, resumed = trained(name, tmp_path)
    assert killed.state.global_step == 2 < straight.state.global_step
    assert resumed.spent == straight.spent and resumed.loader.report == straight.loader.report
    assert same_weights(resumed.model, straight.model)
    assert not same_weights(resumed.model, made(name)[0].float())
