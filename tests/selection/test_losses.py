"""One loss per example of every common head, held against the model's own mean."""

from types import SimpleNamespace

import pytest
import torch
import transformers as tf

from rsf.selection import per_example_error, per_example_loss
from rsf.selection.losses import as_the_model_does, check_against_own

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}
FLOAT32 = {
    "rtol": 1e-4,
    "atol": 1e-6,
    "check_dtype": False,
}  # the library computes some of these losses in float32 whatever the model's
IN_FLOAT32 = ("causal", "causal with images", "CTC", "CTC sum")


def bert(num_labels=3):
    return tf.BertConfig(**TINY, num_labels=num_labels)


N, T = 5, 7


def tokens(rng):
    return {
        "input_ids": torch.randint(2, 40, (N, T), generator=rng),
        "attention_mask": torch.ones(N, T, dtype=torch.long),
    }


def labels(rng, *shape, high=3):
    return torch.randint(0, high, shape, generator=rng)


def some_tokens(rng, high):
    """Labels of T tokens, three of them without one: equally many labelled in each example."""
    return labels(rng, N, T, high=high).index_fill(1, torch.tensor([0, 2, 6]), -100)


GPT2 = tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=T)


class DecoderOnlyForConditionalGeneration(tf.GPT2LMHeadModel):
    """As the models that continue images and text are named: no encoder, so its labels are shifted."""


def speech(rng, reduction):
    config = tf.Wav2Vec2Config(
        **TINY,
        conv_dim=(8, 8),
        conv_stride=(2, 2),
        conv_kernel=(4, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        ctc_loss_reduction=reduction,
        pad_token_id=0,
    )
    texts = torch.where(
        torch.arange(4) < torch.tensor([4, 3, 2, 4, 1])[:, None], 1 + labels(rng, N, 4, high=38), -100
    )
    texts[-1, 1:] = 0  # padded with the blank instead: ignored, too
    heard = (torch.arange(90) < torch.tensor([90, 80, 70, 90, 60])[:, None]).long()
    return tf.Wav2Vec2ForCTC(config), {
        "input_values": torch.randn(N, 90, generator=rng),
        "attention_mask": heard,
        "labels": texts,
    }


HEADS = {
    "sequence": lambda r: (tf.BertForSequenceClassification(bert()), tokens(r) | {"labels": labels(r, N)}),
    "several labels": lambda r: (
        tf.BertForSequenceClassification(bert()),
        tokens(r) | {"labels": labels(r, N, 3, high=2).float()},
    ),
    "regression": lambda r: (
        tf.BertForSequenceClassification(bert(1)),
        tokens(r) | {"labels": torch.randn(N, generator=r)},
    ),
    "tokens": lambda r: (tf.BertForTokenClassification(bert()), tokens(r) | {"labels": some_tokens(r, 3)}),
    "masked": lambda r: (tf.BertForMaskedLM(bert()), tokens(r) | {"labels": some_tokens(r, 40)}),
    "causal": lambda r: (tf.GPT2LMHeadModel(GPT2), tokens(r) | {"labels": some_tokens(r, 40)}),
    "causal with images": lambda r: (
        DecoderOnlyForConditionalGeneration(GPT2),
        tokens(r) | {"labels": some_tokens(r, 40)},
    ),
    "sequence to sequence": lambda r: (
        tf.T5ForConditionalGeneration(
            tf.T5Config(
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                vocab_size=40,
                decoder_start_token_id=0,
            )
        ),
        tokens(r) | {"labels": some_tokens(r, 40)},
    ),
    "question": lambda r: (
        tf.BertForQuestionAnswering(bert(2)),
        tokens(r) | {"start_positions": labels(r, N, high=T), "end_positions": labels(r, N, high=T)},
    ),
    "choice": lambda r: (
        tf.BertForMultipleChoice(bert()),
        {"input_ids": torch.randint(2, 40, (N, 4, T), generator=r), "labels": labels(r, N, high=4)},
    ),
    "image": lambda r: (
        tf.ViTForImageClassification(
            tf.ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=8,
                patch_size=4,
                num_channels=1,
                num_labels=3,
            )
        ),
        {"pixel_values": torch.randn(N, 1, 8, 8, generator=r), "labels": labels(r, N)},
    ),
    "CTC": lambda r: speech(r, "mean"),
    "CTC sum": lambda r: speech(r, "sum"),
}


def made(name):
    torch.manual_seed(0)
    model, inputs = HEADS[name](torch.Generator().manual_seed(1))
    model = model.double().eval()
    return model, {
        key: value.double() if value.is_floating_point() else value for key, value in inputs.items()
    }


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


@pytest.mark.parametrize("name", ["tokens", "masked", "causal", "causal with images", "sequence to sequence"])
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

    best = lambda outputs, _: outputs.logits.argmax(-1)  # noqa: E731
    first_wrong = lambda outputs, _: torch.cat(
        [1 - outputs.logits.argmax(-1)[:1].clamp(max=1), outputs.logits.argmax(-1)[1:]]
    )
    for name in ("sequence", "image", "choice", "tokens", "masked", "sequence to sequence"):
        assert error(name, labels=best).tolist() == [0] * N
    assert error("sequence", labels=first_wrong).tolist() == [1] + [0] * (N - 1)
    next_token = lambda outputs, _: torch.cat(
        [torch.zeros(N, 1, dtype=torch.long), outputs.logits.argmax(-1)[:, :-1]], 1
    )
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
