"""A student that learns from a teacher, and layers without their smallest weights.

    distillation   T^2 KL(softmax(teacher / T) || softmax(student / T)), beside the loss of the label
    pruning        structured, whole neurons: the layer has fewer; or unstructured, weights: they are 0

The second is that of torch.nn.utils.prune, by magnitude.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.utils import prune

from rsf.lab.models import Checkpoint
from rsf.lab.models.last_layer import LastLayer

LAYERS = 3  # of a student
AMOUNT = 0.75  # of the neurons, or of their weights, is pruned: half of what a layer has
TEMPERATURE = 2.0


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return T^2 KL(teacher || student) of each example (batch,), both softmax(logits / T)."""
    one, other = (F.log_softmax(logits / TEMPERATURE, -1) for logits in (student, teacher))
    return TEMPERATURE**2 * F.kl_div(one, other, reduction="none", log_target=True).sum(-1)


def criterion(_: object, inputs: dict, outputs: object) -> torch.Tensor:
    """Return the loss of each example (batch,): its label's; where a teacher said something, half of both.

    Labels are (batch,), or (batch, 1 + classes) with the teacher's logits, NaN where it said nothing.
    """
    told = inputs["labels"].reshape(len(outputs.logits), -1).to(outputs.logits.dtype)
    loss = F.cross_entropy(outputs.logits, told[:, 0].long(), reduction="none")
    if told.shape[1] == 1 or told.isnan().any():
        return loss
    return (loss + distillation_loss(outputs.logits, told[:, 1:])) / 2


class Student(LastLayer):
    """A last layer that learns from labels and a teacher."""

    criterion = staticmethod(criterion)  # what the rule asks for

    def forward(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> object:
        """Return loss and logits."""
        found = super().forward(inputs_embeds, attention_mask)
        if labels is not None:
            found.loss = criterion(self, {"labels": labels}, found).mean()
        return found


def cut(layer: torch.nn.Module, _: bool = True) -> None:
    """Take the feed-forward neurons with the smallest weights out of a layer."""
    wide, narrow = layer.intermediate.dense, layer.output.dense
    prune.ln_structured(wide, "weight", AMOUNT, n=2, dim=0)
    kept = wide.weight_mask[:, 0].nonzero().flatten()
    prune.remove(wide, "weight")
    for module, name, dim in ((wide, "weight", 0), (wide, "bias", 0), (narrow, "weight", 1)):
        setattr(module, name, torch.nn.Parameter(getattr(module, name).detach().index_select(dim, kept)))


def mask(layer: torch.nn.Module, trained: bool = False) -> None:
    """Set the smallest feed-forward weights of a layer to 0; where it is trained, a mask keeps them there."""
    for module in (layer.intermediate.dense, layer.output.dense):
        prune.l1_unstructured(module, "weight", AMOUNT)
        if not trained:
            prune.remove(module, "weight")


PRUNE = {"pruned": cut, "masked": mask}


def encoder(how: str, load: Callable[..., Checkpoint], *of: object) -> Checkpoint:
    """Return the encoder that `load` returns, made smaller: "dense", "distilled", or one of PRUNE."""
    checkpoint = load(*of)
    layers = checkpoint.model.bert.encoder.layer
    if how == "distilled":
        del layers[LAYERS:]
    for layer in layers if how in PRUNE else ():
        PRUNE[how](layer)
    return checkpoint
