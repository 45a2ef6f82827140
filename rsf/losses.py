"""One loss per example, where a model reports only the mean over the batch.

mean over the batch of per_example_loss == the model's own loss
"""

import torch.nn.functional as F


def per_example_loss(model, inputs, outputs):
    """Return the loss of each example, shape (batch,), in the precision of the logits.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A sequence classifier with single labels; its `config.num_labels` must be 2 or more.
    inputs : mapping with "labels" (batch,)
    outputs : the model's output for these inputs, with `logits` (batch, labels)
    """
    logits, labels = _classification(model, inputs, outputs)
    return F.cross_entropy(logits, labels, reduction="none")


def per_example_error(model, inputs, outputs):
    """Return 1 where the largest logit is not the label's, else 0, shape (batch,); arguments as `per_example_loss`."""
    logits, labels = _classification(model, inputs, outputs)
    return (logits.argmax(-1) != labels).to(logits.dtype)


def _classification(model, inputs, outputs):
    logits = getattr(outputs, "logits", None)
    if logits is None:
        raise ValueError(
            f"{type(model).__name__} returned no logits, so its loss per example is unknown: pass criterion=callable(model, inputs, outputs)"
        )
    if "labels" not in inputs:
        raise ValueError(f"the batch has no column 'labels', only {sorted(inputs)}: name the label column 'labels' or 'label'")
    if logits.ndim != 2 or logits.shape[1] < 2 or inputs["labels"].shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (batch, labels) and labels (batch,), got {tuple(logits.shape)} and {tuple(inputs['labels'].shape)}: "
            "for other heads pass criterion=callable(model, inputs, outputs)"
        )
    return logits, inputs["labels"]
