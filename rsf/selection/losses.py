"""One loss per example, where a model reports only one for the whole batch.

    as_the_model_does(model, inputs, per_example_loss) == the model's own loss

The head is told by the model's class name, as transformers names them. Anything else takes a function of your own:
criterion=callable(model, inputs, outputs) -> tensor (batch,).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a position that has none
SPAN = {"start_positions": "start_logits", "end_positions": "end_logits"}
SHIFTED = ("ForCausalLM", "LMHeadModel")  # the logits of a position predict the next one's label
TOKENS = (
    *SHIFTED,
    "ForTokenClassification",
    "ForMaskedLM",
    "ForConditionalGeneration",
    "EncoderDecoderModel",
)


def per_example_loss(model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object) -> Tensor:
    """Return the loss of each example, shape (batch,), in float32, or float64 where the logits are (not CTC).

    Parameters
    ----------
    model : transformers.PreTrainedModel, also wrapped by PEFT or torch.compile
        For sequence, image, audio or video classification (one label, several labels, regression), multiple choice,
        next-sentence prediction, token classification, causal, masked or sequence-to-sequence language modelling,
        extractive question answering, CTC.
    inputs : mapping with "labels" (question answering: "start_positions" and "end_positions")
    outputs : the model's output for these inputs

    Notes
    -----
    Of a loss per token this is the mean over the example's own labelled tokens: how badly it is predicted, not how
    long it is, so that a rule's k means the same for short and long. Of a question it is the mean over the start and
    the end, where they lie within the text. An example without any label has loss 0. The model's own loss is the mean
    over the tokens of the whole batch; the two means are equal where all examples have equally many labelled tokens,
    and `as_the_model_does` gives the model's own in any case. A CTC loss is divided by the length of its target if the
    model's configuration says "mean".
    """
    head = _head(model)
    if head == "ForQuestionAnswering":
        halves = []
        for name, of in SPAN.items():
            logits = _need(outputs, of, model)
            length = logits.shape[1]  # also what stands for a position behind the text
            halves.append(_cross_entropy(logits, _labels(inputs, name).flatten().clamp(0, length), length))
        return (halves[0] + halves[1]) / _labelled(model, inputs).sum(1).clamp(min=1)
    logits = _need(outputs, "logits", model)
    labels = _labels(inputs, "labels")
    if head == "ForCTC":
        return _ctc(model, inputs, logits, labels)
    if head in TOKENS:
        logits, labels = _aligned(model, logits, labels)
        loss = _cross_entropy(logits.transpose(1, 2), labels, IGNORED)  # (batch, tokens)
        return loss.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)
    kind = _problem(model, logits, labels)
    logits = _precise(logits)
    if kind == "regression":
        return F.mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="none").mean(1)
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    return _cross_entropy(logits, labels, IGNORED)


def per_example_error(model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object) -> Tensor:
    """Return 1 where any labelled part of an example is predicted wrongly, else 0, shape (batch,), in float32.

    Arguments as for `per_example_loss`.
    """
    head = _head(model)
    if head == "ForQuestionAnswering":
        wrong = [
            _need(outputs, of, model).argmax(-1) != _labels(inputs, name).flatten()
            for name, of in SPAN.items()
        ]
        return (torch.stack(wrong, 1) & _labelled(model, inputs)).any(1).float()
    logits = _need(outputs, "logits", model)
    labels = _labels(inputs, "labels")
    if head in TOKENS:
        logits, labels = _aligned(model, logits, labels)
        return ((logits.argmax(-1) != labels) & (labels != IGNORED)).any(1).float()
    kind = "CTC" if head == "ForCTC" else _problem(model, logits, labels)
    if kind == "multi_label_classification":
        return ((logits > 0) != (labels > 0.5)).any(1).float()
    if kind != "single_label_classification":
        raise ValueError(
            f'the criterion "error" means nothing for {kind}: use "loss", or a callable(model, inputs, outputs)'
        )
    return ((logits.argmax(-1) != labels) & (labels != IGNORED)).float()


def as_the_model_does(model: torch.nn.Module, inputs: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """Return one number from one per example (batch,), combined as the model combines the losses of a batch.

    Labels weigh alike, so an example weighs by the number of its labelled tokens, and one without labels not at all;
    a CTC loss is a mean over the examples or, if the model's configuration says so, a sum.

    Where a question's answer is cut off on one side only, the model takes the mean over the starts and the mean over
    the ends apart; this is the mean over both.
    """
    if _head(model) == "ForCTC":
        return values.sum() if model.config.ctc_loss_reduction == "sum" else values.mean()
    weight = _labelled(model, inputs).sum(1)
    return (weight * values).sum() / weight.sum().clamp(min=1)


def check_against_own(
    model: torch.nn.Module, inputs: Mapping[str, Tensor], outputs: object, loss: Tensor
) -> bool:
    """Hold the losses of the examples (batch,) against the model's own loss, and return whether that was decisive.

    Not decisive is a batch in which an own loss that gives some labels twice the weight of others would look the
    same: no labels, one label only, losses that hardly differ (a fresh head gives each the loss ln 2), an answer that
    is cut off on one side. Look at the next batches, then, until one is.

    Raises
    ------
    ValueError
        The model's own loss is not made of these losses, to 2 % (it is computed in half precision, perhaps).
    """
    own = float(_need(outputs, "loss", model).detach())
    loss = loss.detach()
    ours = float(as_the_model_does(model, inputs, loss))
    labelled = _labelled(model, inputs)
    uneven = _head(model) == "ForQuestionAnswering" and len(labelled.sum(0).unique()) > 1
    if not math.isfinite(own) or uneven:
        return False
    tolerance = 0.02 * abs(own) + 0.002
    if abs(own - ours) > tolerance:
        raise ValueError(
            f"{type(model).__name__} reports the loss {own:.4g} where that of its examples is {ours:.4g}: its loss is "
            "not the usual one of such a head, so say what the loss of an example is: "
            "criterion=callable(model, inputs, outputs)"
        )
    known = torch.cat([inputs[name].flatten() for name in ("labels", *SPAN) if name in inputs])
    if len(known[known != IGNORED].unique()) < 2:
        return False
    labels = inputs.get("labels")
    one_each = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
    heavy = labels == labels[loss.argmax()] if one_each else loss > loss[labelled.any(1)].mean()
    weight = 1 + heavy.to(loss.dtype)
    weight = weight * (
        as_the_model_does(model, inputs, torch.ones_like(loss)) / as_the_model_does(model, inputs, weight)
    )
    return abs(float(as_the_model_does(model, inputs, weight * loss)) - ours) > tolerance


def is_unlabelled(model: torch.nn.Module, inputs: Mapping[str, object]) -> bool:
    """Return whether a batch has label columns and not a single label in them: nothing is learned from it."""
    names = SPAN if _head(model) == "ForQuestionAnswering" else ("labels",)
    if not all(torch.is_tensor(inputs.get(name)) for name in names):
        return False
    return not _labelled(model, inputs).any()


def refuse_virtual_tokens(model: torch.nn.Module) -> None:
    """Raise ValueError for prompt tuning, p-tuning and their kin: PEFT puts tokens before the text inside of the model.

    The logits are then longer than the labels, and where a text is padded depends on the batch that it stands in.
    Prefix tuning, which adds keys and values only, is not meant.
    """
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False) and config.peft_type.name not in (
        "PREFIX_TUNING",
        "CARTRIDGE",
    ):
        raise ValueError(
            f"PEFT's {config.peft_type.name} puts {config.num_virtual_tokens} virtual tokens before each text that its "
            "labels and its padding know nothing of, so the loss of one example cannot be told: "
            "take LoRA or prefix tuning instead"
        )


def _head(model):
    """Return the last part of the class name of a model, below the wrappers of PEFT and torch.compile."""
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "get_base_model"):
        model = getattr(model.get_base_model(), "_orig_mod", model.get_base_model())
    heads = (*TOKENS, "ForQuestionAnswering", "ForCTC")
    return next((head for head in heads if type(model).__name__.endswith(head)), "classification")


def _is_shifted(model):
    """Return whether the logits of a position predict the label of the next."""
    decoder_only = not getattr(model.config, "is_encoder_decoder", False)
    head = _head(model)
    return head in SHIFTED or (head == "ForConditionalGeneration" and decoder_only)  # with images


def _labelled(model, inputs):
    """Return which labels the model's own loss counts, (batch, labels of an example)."""
    head = _head(model)
    if head == "ForQuestionAnswering":
        length = inputs[getattr(model, "main_input_name", "input_ids")].shape[1]
        return torch.stack([_labels(inputs, name).flatten() < length for name in SPAN], 1)
    labels = _labels(inputs, "labels")
    if head in TOKENS:
        return (labels[:, 1:] if _is_shifted(model) else labels) != IGNORED
    numbers = labels.is_floating_point() or _config(model, "problem_type") == "regression"
    there = torch.ones_like(labels, dtype=torch.bool) if numbers else labels != IGNORED
    return there.reshape(len(labels), -1)


def _config(model, name):
    return getattr(getattr(model, "config", None), name, None)


def _need(outputs, name, model):
    value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    if value is None:
        raise ValueError(
            f"{type(model).__name__} returned no {name}, so its loss per example is unknown: "
            "pass criterion=callable(model, inputs, outputs)"
        )
    return value


def _labels(inputs, name):
    if name not in inputs:
        raise ValueError(
            f"the batch has no column {name!r}, only {sorted(inputs)}: name the label column so ('label' is renamed to "
            "'labels'), and give numbers, for collators leave out a column of texts without a word"
        )
    return inputs[name]


def _precise(logits):
    return logits if logits.element_size() >= 4 else logits.float()


def _cross_entropy(logits, labels, ignored):
    return F.cross_entropy(_precise(logits), labels, ignore_index=ignored, reduction="none")


def _aligned(model, logits, labels):
    """Return logits (batch, tokens, classes) and the labels (batch, tokens) that they predict."""
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            "expected logits (batch, tokens, classes) and labels (batch, tokens), "
            f"got {(*logits.shape,)} and {(*labels.shape,)}"
        )
    return (logits[:, :-1], labels[:, 1:]) if _is_shifted(model) else (logits, labels)


def _problem(model, logits, labels):
    """Return the kind of classification, told as transformers does."""
    kind = _config(model, "problem_type")
    if kind is None and logits.ndim == 2:
        if logits.shape[1] == 1:
            kind = "regression"
        elif labels.shape == logits.shape and labels.is_floating_point():
            kind = "multi_label_classification"
        else:
            kind = "single_label_classification"
    if kind == "regression":
        fits = labels.numel() == logits.numel()
    elif kind == "multi_label_classification":
        fits = labels.shape == logits.shape
    else:
        fits = labels.shape == logits.shape[:1]
    if kind is None or logits.ndim != 2 or not fits:
        raise ValueError(
            "expected logits (batch, labels) and labels (batch,), or (batch, labels) of floats, "
            f"got {(*logits.shape,)} and {(*labels.shape,)}: "
            "for other heads pass criterion=callable(model, inputs, outputs)"
        )
    return kind


def _ctc(model, inputs, logits, labels):
    """Return the CTC loss of each example.

    Logits are (batch, frames, classes), labels (batch, tokens), IGNORED or blank where padded. Computed in float32
    and without cuDNN, as the model does.
    """
    config = model.config
    mask = inputs.get("attention_mask")
    if mask is None:
        samples = labels.new_full((len(labels),), inputs[model.main_input_name].shape[1])
    else:
        samples = mask.sum(-1)
    there = (labels != IGNORED) & (labels != config.pad_token_id)
    frames = model._get_feat_extract_output_lengths(samples).long()
    lengths = there.sum(-1)
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # (frames, batch, classes)
    with torch.backends.cudnn.flags(enabled=False):
        loss = F.ctc_loss(
            log_p,
            labels[there],
            frames,
            lengths,
            blank=config.pad_token_id,
            reduction="none",
            zero_infinity=config.ctc_zero_infinity,
        )
    return loss / lengths.clamp(min=1) if config.ctc_loss_reduction == "mean" else loss
