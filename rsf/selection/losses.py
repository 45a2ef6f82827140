"""One loss per example, where a model reports only one for the whole batch.

    as_the_model_does(model, inputs, per_example_loss) == the model's own loss

The head is told by the model's class name, as transformers names them. Anything else takes a function of your
own: criterion=callable(model, inputs, outputs) -> tensor (batch,).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rsf.acceptance import refuse_if

IGNORED = -100  # the label of a position that has none, also to PyTorch's cross_entropy
SHIFTED = ("ForCausalLM", "LMHeadModel")  # the logits of a position predict the next one's label
TOKENS = (
    *SHIFTED,
    "ForTokenClassification",
    "ForMaskedLM",
    "ForConditionalGeneration",
    "MTModel",  # Marian
    "EncoderDecoderModel",
)
HEADS = (*TOKENS, "ForQuestionAnswering", "ForCTC")
SPAN = {"start_positions": "start_logits", "end_positions": "end_logits"}  # of question answering


def per_example_loss(model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object) -> Tensor:
    """Return the loss of each example, shape (batch,), in float32, or float64 where the logits are (not CTC).

    Parameters
    ----------
    model : transformers.PreTrainedModel, also wrapped by PEFT or torch.compile
        For sequence, image, audio or video classification (one label, several labels, regression), multiple
        choice, next-sentence prediction, token classification, causal, masked or sequence-to-sequence
        language modelling, extractive question answering, CTC.
    inputs : mapping with "labels" (question answering: "start_positions" and "end_positions")
    outputs : the model's output for these inputs

    Notes
    -----
    Of a loss per token this is the mean over the example's own labelled tokens: how badly it is predicted,
    not how long it is, so that a rule's k means the same for short and long. Of a question it is the mean
    over the start and the end of the answer, as far as they lie within the text. An example without any
    label has loss 0. The model's own loss is the mean over the tokens of the whole batch; the two means are
    equal where all examples have equally many labelled tokens, and `as_the_model_does` gives the model's own
    in any case. A CTC loss is divided by the length of its target if the model's configuration says "mean".
    """
    kind, logits, labels = _read(model, inputs, outputs)
    if kind == "CTC":
        return _ctc(model, inputs, logits, labels)
    logits = logits if logits.element_size() >= 4 else logits.float()
    if kind == "regression":
        return F.mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="none").mean(1)
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    if kind == "tokens":
        loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (batch, tokens)
    else:  # (batch,) of one label each, or (batch, 2) of the ends of an answer
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    counted = (labels != IGNORED).reshape(len(labels), -1).sum(1)
    return loss.reshape(len(labels), -1).sum(1) / counted.clamp(min=1)


def per_example_error(model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object) -> Tensor:
    """Return 1.0 where a labelled part of an example is predicted wrongly, else 0.0, shape (batch,).

    Arguments as for `per_example_loss`.
    """
    kind, logits, labels = _read(model, inputs, outputs)
    refuse_if(
        kind in ("CTC", "regression"),
        f'the criterion "error" means nothing for {kind}: use "loss", or a callable(model, inputs, outputs)',
    )
    wrong = (
        (logits > 0) != (labels > 0.5)
        if kind == "multi_label_classification"
        else (logits.argmax(-1) != labels) & (labels != IGNORED)
    )
    return wrong.reshape(len(labels), -1).any(1).float()


CRITERIA = {"loss": per_example_loss, "error": per_example_error}


def as_the_model_does(model: torch.nn.Module, inputs: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """Return one number from one per example (batch,), combined as the model combines the losses of a batch.

    Labels weigh alike, so an example weighs by the number of its labelled tokens, and one without labels not
    at all. A CTC loss may be a sum. Where an answer is cut off on one side only, the model takes the means
    over the starts and over the ends apart; this is the mean over both together.
    """
    if _head(model) == "ForCTC":
        return values.sum() if model.config.ctc_loss_reduction == "sum" else values.mean()
    labels = _targets(model, inputs)
    if labels.is_floating_point():
        return values.mean()
    weight = (labels != IGNORED).reshape(len(labels), -1).sum(1)
    return (weight * values).sum() / weight.sum().clamp(min=1)


@torch.no_grad()
def check_against_own(
    model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object, loss: Tensor
) -> bool:
    """Hold the losses of the examples (batch,) against the model's own, and return whether that was decisive.

    It was not if a model that gives some labels twice the weight of others would have passed: with no label,
    or only one that all share; with losses that hardly differ (a fresh head gives each ln 2); with an answer
    that is cut off on one side only. Look at the next batches, then, until one is decisive.

    Raises
    ------
    ValueError
        The model's own loss is not made of these, to 2 % (it may be computed in half precision).
    """
    own = float(_need(outputs, "loss", model).detach())
    labels = _targets(model, inputs)
    there = labels != IGNORED
    one_sided = _head(model) == "ForQuestionAnswering" and bool((there[:, 0] != there[:, 1]).any())
    if one_sided or not math.isfinite(own):
        return False
    ours = float(as_the_model_does(model, inputs, loss))

    def differs(other):
        return abs(other - ours) > 0.02 * abs(other) + 0.002

    refuse_if(
        differs(own),
        f"{type(model).__name__} reports the loss {own:.4g} where that of its examples is {ours:.4g}: "
        "its loss is not the usual one of such a head, so say what the loss of an example is: "
        "criterion=callable(model, inputs, outputs)",
    )
    if len(labels[there].unique()) < 2:
        return False
    one_each = labels.ndim == 1 and not labels.is_floating_point()
    heavy = labels == labels[loss.argmax()] if one_each else loss > loss.mean()
    weight = 1 + heavy.to(loss.dtype)
    total, weighted, count = (as_the_model_does(model, inputs, x) for x in (weight, weight * loss, loss**0))
    return differs(float(weighted / total * count))


def is_unlabelled(model: torch.nn.Module, inputs: Mapping[str, object]) -> bool:
    """Return whether a batch has label columns and not a single label in them: nothing is learned from it."""
    names = SPAN if _head(model) == "ForQuestionAnswering" else ("labels",)
    if not all(torch.is_tensor(inputs.get(name)) for name in names):
        return False
    labels = _targets(model, inputs)
    return not labels.is_floating_point() and bool((labels == IGNORED).all())


def refuse_virtual_tokens(model: torch.nn.Module) -> None:
    """Raise ValueError for prompt tuning, p-tuning and their kin, where PEFT puts tokens before each text.

    The logits are then longer than the labels, and a model that looks for padding tokens finds none any more.
    Prefix tuning, which adds keys and values only, is not meant.
    """
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False) and config.peft_type.name not in (
        "PREFIX_TUNING",
        "CARTRIDGE",
    ):
        raise ValueError(
            f"PEFT's {config.peft_type.name} puts {config.num_virtual_tokens} virtual tokens before each "
            "text, which labels and padding know nothing of, so the loss of one example cannot be told: "
            "take LoRA or prefix tuning, or say it: criterion=callable(model, inputs, outputs)"
        )


def _head(model):
    """Return the last part of the class name of a model, below the wrappers of torch.compile and PEFT."""
    model = getattr(model, "_orig_mod", model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = next((head for head in HEADS if type(model).__name__.endswith(head)), "classification")
    # one for conditional generation that takes images has no encoder for text, and writes on
    writes_on = head == "ForConditionalGeneration" and not _configured(model, "is_encoder_decoder")
    return "ForCausalLM" if writes_on else head


def _targets(model, inputs):
    """Return the labels that the model's own loss counts, (batch, ...), IGNORED where it counts none."""
    if _head(model) == "ForQuestionAnswering":
        length = inputs[getattr(model, "main_input_name", "input_ids")].shape[1]
        places = torch.stack([_labels(inputs, name).flatten() for name in SPAN], dim=1).clamp(min=0)
        return places.where(places < length, IGNORED)  # (batch, 2)
    labels = _labels(inputs, "labels")
    return labels[:, 1:] if _head(model) in SHIFTED else labels


def _read(model, inputs, outputs):
    """Return what kind of task it is, the logits, and the labels that they predict."""
    head = _head(model)
    if head == "ForQuestionAnswering":
        logits = torch.stack([_need(outputs, name, model) for name in SPAN.values()], dim=1)
        return "span", logits, _targets(model, inputs)
    logits, labels = _need(outputs, "logits", model), _labels(inputs, "labels")
    if head == "ForCTC":
        return "CTC", logits, labels
    if head in TOKENS:
        refuse_if(
            logits.ndim != 3 or labels.shape != logits.shape[:2],
            "expected logits (batch, tokens, classes) and labels (batch, tokens), "
            f"got {(*logits.shape,)} and {(*labels.shape,)}",
        )
        return "tokens", logits[:, :-1] if head in SHIFTED else logits, _targets(model, inputs)
    kind = _configured(model, "problem_type")
    if kind is None:  # told as transformers does
        several = labels.is_floating_point() and labels.shape == logits.shape
        kind = "multi_label_classification" if several else "single_label_classification"
        kind = "regression" if logits.shape[-1] == 1 else kind
    fits = (
        labels.shape == logits.shape[:1]
        if kind == "single_label_classification"
        else labels.numel() == logits.numel()
    )
    refuse_if(
        logits.ndim != 2 or not fits,
        "expected logits (batch, labels) and labels (batch,), or (batch, labels) of floats, "
        f"got {(*logits.shape,)} and {(*labels.shape,)}: "
        "for other heads pass criterion=callable(model, inputs, outputs)",
    )
    return kind, logits, labels


def _configured(model, name):
    return getattr(getattr(model, "config", None), name, None)


def _need(outputs, name, model):
    value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    refuse_if(
        value is None,
        f"{type(model).__name__} returned no {name} but a {type(outputs).__name__}, so its loss per example "
        "is unknown: let it return a dict (return_dict=True) that has it, or pass criterion=callable(model, "
        "inputs, outputs)",
    )
    return value


def _labels(inputs, name):
    refuse_if(
        name not in inputs,
        f"the batch has no column {name!r}, only {sorted(inputs)}: name the label column so ('label' is "
        "renamed to 'labels'), and give numbers, for collators leave out a column of texts without a word; "
        "for a model that takes labels by another name pass criterion=callable(model, inputs, outputs)",
    )
    return inputs[name]


def _ctc(model, inputs, logits, labels):
    """Return the CTC loss of each example, in float32 and without cuDNN, as the model does.

    Logits are (batch, frames, classes), labels (batch, tokens), IGNORED or blank where padded.
    """
    config = model.config
    mask = inputs.get("attention_mask")
    samples = (
        labels.new_full((len(labels),), inputs[model.main_input_name].shape[1])
        if mask is None
        else mask.sum(-1)
    )
    there = (labels != IGNORED) & (labels != config.pad_token_id)
    lengths = there.sum(-1)
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # (frames, batch, classes)
    with torch.backends.cudnn.flags(enabled=False):
        loss = F.ctc_loss(
            log_p,
            labels[there],
            model._get_feat_extract_output_lengths(samples).long(),
            lengths,
            blank=config.pad_token_id,
            reduction="none",
            zero_infinity=config.ctc_zero_infinity,
        )
    return loss / lengths.clamp(min=1) if config.ctc_loss_reduction == "mean" else loss
