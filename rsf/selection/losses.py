"""One loss per example, where a model reports only one for the whole batch.

    as_the_model_does(model, inputs, per_example_loss) == the model's own loss

The head is told by the model's class name, as transformers names them. Anything else takes a function of your own:
criterion=callable(model, inputs, outputs) -> tensor (batch,).
"""

import torch
import torch.nn.functional as F

IGNORED = -100  # the label of a position that has none
SPAN = (("start_logits", "start_positions"), ("end_logits", "end_positions"))
SHIFTED = ("ForCausalLM", "LMHeadModel")  # the logits of a position predict the next one's label
TOKENS = (
    *SHIFTED,
    "ForTokenClassification",
    "ForMaskedLM",
    "ForConditionalGeneration",
    "EncoderDecoderModel",
)


def per_example_loss(model, inputs, outputs):
    """Return the loss of each example, shape (batch,), in float32, or float64 where the logits are (not CTC).

    Parameters
    ----------
    model : transformers.PreTrainedModel, also wrapped by PEFT
        For sequence, image, audio or video classification (one label, several labels, regression), multiple choice, token
        classification, causal, masked or sequence-to-sequence language modelling, extractive question answering, CTC.
    inputs : mapping with "labels" (question answering: "start_positions" and "end_positions")
    outputs : the model's output for these inputs

    Notes
    -----
    Of a loss per token this is the mean over the example's own labelled tokens: how badly it is predicted, not how long it is, so
    that a rule's k means the same for short and long. An example without labelled tokens has loss 0. The model's own loss is the
    mean over the tokens of the whole batch; the two means are equal where all examples have equally many labelled tokens, and
    `as_the_model_does` gives the model's own in any case. A CTC loss is divided by the length of its target if the model's
    configuration says "mean".
    """
    head = _head(model)
    if head == "ForQuestionAnswering":
        pairs = [(_need(outputs, name, model), _labels(inputs, label).flatten()) for name, label in SPAN]
        return (
            sum(
                _cross_entropy(logits, positions.clamp(0, logits.shape[1]), logits.shape[1])
                for logits, positions in pairs
            )
            / 2
        )
    logits, labels = _need(outputs, "logits", model), _labels(inputs, "labels")
    if head == "ForCTC":
        return _ctc(model, inputs, logits, labels)
    if head in TOKENS:
        logits, labels = _aligned(model, logits, labels)
        return _cross_entropy(logits.transpose(1, 2), labels, IGNORED).sum(1) / (labels != IGNORED).sum(
            1
        ).clamp(min=1)
    kind, logits = _problem(model, logits, labels), _precise(logits)
    if kind == "regression":
        return F.mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="none").mean(1)
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    return _cross_entropy(logits, labels, IGNORED)


def per_example_error(model, inputs, outputs):
    """Return 1 where any labelled part of an example is predicted wrongly, else 0, shape (batch,); arguments as `per_example_loss`."""
    head = _head(model)
    if head == "ForQuestionAnswering":
        wrong = [
            _need(outputs, name, model).argmax(-1) != _labels(inputs, label).flatten() for name, label in SPAN
        ]
        return (wrong[0] | wrong[1]).double()
    logits, labels = _need(outputs, "logits", model), _labels(inputs, "labels")
    if head in TOKENS:
        logits, labels = _aligned(model, logits, labels)
        return ((logits.argmax(-1) != labels) & (labels != IGNORED)).any(1).double()
    kind = "CTC" if head == "ForCTC" else _problem(model, logits, labels)
    if kind == "multi_label_classification":
        return ((logits > 0) != (labels > 0.5)).any(1).double()
    if kind != "single_label_classification":
        raise ValueError(
            f'the criterion "error" means nothing for {kind}: use "loss", or a callable(model, inputs, outputs)'
        )
    return (logits.argmax(-1) != labels).double()


def as_the_model_does(model, inputs, values):
    """Return one number from one per example (batch,), combined as the model combines the losses of a batch into its own.

    Tokens weigh alike, so an example weighs by the number of its labelled ones; a CTC loss may be a sum; else it is the mean.
    """
    head = _head(model)
    if head in TOKENS:
        labels = _labels(inputs, "labels")
        tokens = (labels[:, 1:] if _is_shifted(model) else labels).ne(IGNORED).sum(1)
        return (tokens * values).sum() / tokens.sum().clamp(min=1)
    return values.sum() if head == "ForCTC" and model.config.ctc_loss_reduction == "sum" else values.mean()


def check_against_own(model, inputs, outputs, loss):
    """Raise ValueError if the losses of the examples (batch,) are not those that the model's own loss is made of, to 2 %."""
    own, ours = (
        float(value.detach())
        for value in (_need(outputs, "loss", model), as_the_model_does(model, inputs, loss))
    )
    if abs(own - ours) > 0.02 * abs(own) + 0.002:
        raise ValueError(
            f"{type(model).__name__} reports the loss {own:.4g} where that of its examples is {ours:.4g}: its loss is not the usual "
            "one of such a head, so say what the loss of an example is: criterion=callable(model, inputs, outputs)"
        )


def _head(model):
    """Return the last part of the class name of a model, below PEFT's wrapper."""
    name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    return next(
        (head for head in (*TOKENS, "ForQuestionAnswering", "ForCTC") if name.endswith(head)),
        "classification",
    )


def _is_shifted(model):
    decoder_only = _head(model) == "ForConditionalGeneration" and not getattr(
        model.config, "is_encoder_decoder", False
    )  # with images
    return _head(model) in SHIFTED or decoder_only


def _need(outputs, name, model):
    value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    if value is None:
        raise ValueError(
            f"{type(model).__name__} returned no {name}, so its loss per example is unknown: pass criterion=callable(model, inputs, outputs)"
        )
    return value


def _labels(inputs, name):
    if name not in inputs:
        raise ValueError(
            f"the batch has no column {name!r}, only {sorted(inputs)}: name the label column so ('label' is renamed to 'labels')"
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
            f"expected logits (batch, tokens, classes) and labels (batch, tokens), got {(*logits.shape,)} and {(*labels.shape,)}"
        )
    return (logits[:, :-1], labels[:, 1:]) if _is_shifted(model) else (logits, labels)


def _problem(model, logits, labels):
    """Return the kind of classification, told as transformers does."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    if kind is None and logits.ndim == 2:
        several = labels.shape == logits.shape and labels.is_floating_point()
        kind = (
            "regression"
            if logits.shape[1] == 1
            else "multi_label_classification"
            if several
            else "single_label_classification"
        )
    fits = (
        labels.numel() == logits.numel()
        if kind == "regression"
        else labels.shape in (logits.shape, logits.shape[:1])
    )
    if kind is None or logits.ndim != 2 or not fits or (kind.startswith("single") and labels.ndim != 1):
        raise ValueError(
            f"expected logits (batch, labels) and labels (batch,), or (batch, labels) of floats, got {(*logits.shape,)} and {(*labels.shape,)}: "
            "for other heads pass criterion=callable(model, inputs, outputs)"
        )
    return kind


def _ctc(model, inputs, logits, labels):
    """Return the CTC loss of each example from logits (batch, frames, classes) and labels (batch, tokens), IGNORED or blank where padded."""
    config, mask = model.config, inputs.get("attention_mask")
    samples = (
        mask.sum(-1)
        if mask is not None
        else labels.new_full((len(labels),), inputs[model.main_input_name].shape[1])
    )
    there = (labels != IGNORED) & (labels != config.pad_token_id)
    frames, lengths = model._get_feat_extract_output_lengths(samples).long(), there.sum(-1)
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # (frames, batch, classes)
    with torch.backends.cudnn.flags(enabled=False):  # float32 and without cuDNN, as the model does
        how = {"blank": config.pad_token_id, "reduction": "none", "zero_infinity": config.ctc_zero_infinity}
        loss = F.ctc_loss(log_p, labels[there], frames, lengths, **how)
    return loss / lengths.clamp(min=1) if config.ctc_loss_reduction == "mean" else loss
