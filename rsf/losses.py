"""One loss per example, where a model reports only the mean over the batch.

    mean over the batch of per_example_loss == the model's own loss     (tokens: where all examples have equally many labelled ones)

The head is told by the model's class name, as transformers names them; anything else takes a function of your own:
criterion=callable(model, inputs, outputs) -> tensor (batch,).
"""

import torch.nn.functional as F

IGNORED = -100  # the label of a position that has none


def per_example_loss(model, inputs, outputs):
    """Return the loss of each example, shape (batch,), in float32 or the logits' float64.

    Parameters
    ----------
    model : transformers.PreTrainedModel, also wrapped by PEFT
        For sequence or image classification (single label, several labels, regression), multiple choice, token classification, masked
        or causal or sequence-to-sequence language modelling, extractive question answering, CTC.
    inputs : mapping with "labels" (question answering: "start_positions" and "end_positions")
    outputs : the model's output for these inputs

    Losses per token are averaged over an example's own labelled tokens, so a short example weighs as much as a long one (the model's
    own mean weighs tokens alike); an example without any has loss 0. A CTC loss is divided by the length of its target if the model's
    configuration says "mean"; if it says "sum", the model's own loss is the sum of these.
    """
    head = _head(model)
    if head == "ForQuestionAnswering":
        pairs = [(_need(outputs, name, model), _labels(inputs, label)) for name, label in SPAN]
        return sum(_cross_entropy(logits, positions.clamp(0, logits.shape[1]), logits.shape[1]) for logits, positions in pairs) / 2
    logits, labels = _need(outputs, "logits", model), _labels(inputs, "labels")
    if head == "ForCTC":
        return _ctc(model, inputs, logits, labels)
    if head in TOKENS:
        logits, labels = _aligned(head, logits, labels)
        there = labels != IGNORED  # (batch, tokens)
        return _cross_entropy(logits.transpose(1, 2), labels, IGNORED).sum(1) / there.sum(1).clamp(min=1)
    kind = _problem(model, logits, labels)
    if kind == "regression":
        return F.mse_loss(_precise(logits), labels.reshape(logits.shape).to(_precise(logits).dtype), reduction="none").flatten(1).mean(1)
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(_precise(logits), labels.to(_precise(logits).dtype), reduction="none").mean(1)
    return _cross_entropy(logits, labels, IGNORED)


def per_example_error(model, inputs, outputs):
    """Return 1 where any labelled part of an example is predicted wrongly, else 0, shape (batch,); arguments as `per_example_loss`."""
    head = _head(model)
    if head == "ForQuestionAnswering":
        wrong = [_need(outputs, name, model).argmax(-1) != _labels(inputs, label) for name, label in SPAN]
        return (wrong[0] | wrong[1]).double()
    logits, labels = _need(outputs, "logits", model), _labels(inputs, "labels")
    if head in TOKENS:
        logits, labels = _aligned(head, logits, labels)
        return ((logits.argmax(-1) != labels) & (labels != IGNORED)).any(1).double()
    kind = "CTC" if head == "ForCTC" else _problem(model, logits, labels)
    if kind == "multi_label_classification":
        return ((logits > 0) != (labels > 0.5)).any(1).double()
    if kind != "single_label_classification":
        raise ValueError(f'the criterion "error" means nothing for {kind}: use "loss", or a callable(model, inputs, outputs)')
    return (logits.argmax(-1) != labels).double()


SPAN = (("start_logits", "start_positions"), ("end_logits", "end_positions"))
TOKENS = ("ForTokenClassification", "ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def _head(model):
    """Return the last part of the class name of a model, below PEFT's wrapper."""
    name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    return next((head for head in (*TOKENS, "ForQuestionAnswering", "ForCTC") if name.endswith(head)), "classification")


def _need(outputs, name, model):
    value = getattr(outputs, name, None)
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


def _aligned(head, logits, labels):
    """Return logits (batch, tokens, classes) and labels (batch, tokens) of the same positions: a causal model predicts the next token."""
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"expected logits (batch, tokens, classes) and labels (batch, tokens), got {(*logits.shape,)} and {(*labels.shape,)}"
        )
    return (logits[:, :-1], labels[:, 1:]) if head in ("ForCausalLM", "LMHeadModel") else (logits, labels)


def _problem(model, logits, labels):
    """Return the kind of classification, told as transformers does."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    if kind is None and logits.ndim == 2:
        several = labels.shape == logits.shape and labels.is_floating_point()
        kind = "regression" if logits.shape[1] == 1 else "multi_label_classification" if several else "single_label_classification"
    fits = labels.numel() == logits.numel() if kind == "regression" else labels.shape in (logits.shape, logits.shape[:1])
    if kind is None or logits.ndim != 2 or not fits or (kind.startswith("single") and labels.ndim != 1):
        raise ValueError(
            f"expected logits (batch, labels) and labels (batch,), or (batch, labels) of floats, got {(*logits.shape,)} and {(*labels.shape,)}: "
            "for other heads pass criterion=callable(model, inputs, outputs)"
        )
    return kind


def _ctc(model, inputs, logits, labels):
    """Return the CTC loss of each example from logits (batch, frames, classes) and labels (batch, tokens), negative where padded."""
    config = model.config
    mask = inputs.get("attention_mask")
    frames = (mask.sum(-1) if mask is not None else labels.new_full((len(labels),), inputs["input_values"].shape[1])).long()
    frames = model._get_feat_extract_output_lengths(frames)
    lengths = (labels >= 0).sum(-1)
    log_p = F.log_softmax(_precise(logits), dim=-1).transpose(0, 1)  # (frames, batch, classes)
    flat = labels.masked_select(labels >= 0)
    loss = F.ctc_loss(log_p, flat, frames, lengths, config.pad_token_id, reduction="none", zero_infinity=config.ctc_zero_infinity)
    return loss / lengths.clamp(min=1) if config.ctc_loss_reduction == "mean" else loss
