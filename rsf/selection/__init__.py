"""From training examples to full batches of those that a rule keeps: a loader for any loop, and a Trainer.

Names are loaded when they are asked for: `RejectionLoader` needs NumPy alone, the others PyTorch and
transformers.
"""

from importlib import import_module

_FILES = {
    "LoaderReport": "loader",
    "RejectionLoader": "loader",
    "RSFConfig": "budget",
    "RSFTrainer": "trainer",
    "per_example_error": "losses",
    "per_example_loss": "losses",
}
__all__ = [
    "LoaderReport",
    "RSFConfig",
    "RSFTrainer",
    "RejectionLoader",
    "per_example_error",
    "per_example_loss",
]


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


__dir__ = __all__.copy  # what completion offers
