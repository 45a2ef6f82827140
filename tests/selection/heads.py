"""A tiny model of every head, and a few examples for it."""

from pathlib import Path

import torch
import transformers as tf
from helpers import arguments

from rsf.rules import clipped
from rsf.selection import RSFTrainer, per_example_loss

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}


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
    "Marian": lambda r: (
        tf.MarianMTModel(
            tf.MarianConfig(
                vocab_size=40,
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                max_position_embeddings=T,
                pad_token_id=0,
                eos_token_id=1,
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
    "next sentence": lambda r: (
        tf.BertForNextSentencePrediction(bert()),
        tokens(r) | {"labels": labels(r, N, high=2)},
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


class Killed(tf.TrainerCallback):
    """Saves after the second update, and stops there."""

    def on_step_end(self, args, state, control, **_):
        control.should_save = control.should_training_stop = state.global_step == 2
        return control


def trained(name, folder):
    """Train a head straight, killed after two updates, and from there; return these trainers."""
    model, inputs = made(name)
    with torch.no_grad():
        k = 1.2 * float(per_example_loss(model, inputs, model(**inputs)).mean())
    trainers = []
    for where, callbacks, resume in (
        ("straight", [], None),
        ("killed", [Killed()], None),
        ("killed", [], True),
    ):
        torch.manual_seed(0)
        model, inputs = HEADS[name](torch.Generator().manual_seed(1))
        if name == "image":
            model._weight_conversions = []  # of transformers 5.23: it would be saved by older names
        options = {"max_steps": -1, "num_train_epochs": 4, "per_device_train_batch_size": 2}
        trainers.append(
            RSFTrainer(
                model,
                arguments(Path(folder) / where, remove_unused_columns=False, **options),
                train_dataset=[{key: value[i] for key, value in inputs.items()} for i in range(N)],
                data_collator=torch.utils.data.default_collate,
                rule=clipped(k),
                callbacks=callbacks,
            )
        )
        trainers[-1].train(resume_from_checkpoint=resume)
    return trainers
