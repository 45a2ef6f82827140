"""From a model's own samples to training data: sample, judge, keep, fine-tune, and again.

Names are loaded when they are asked for: `sample_and_judge` needs `datasets`, the others PyTorch and
transformers too.
"""

from importlib import import_module

_FILES = {
    "ModelSampler": "sampler",
    "RewardError": "judging",
    "RoundReport": "rounds",
    "SamplingReport": "judging",
    "encode": "encoding",
    "model_sampler": "sampler",
    "pairs": "judging",
    "rsf_rounds": "rounds",
    "sample_and_judge": "judging",
}
__all__ = [
    "ModelSampler",
    "RewardError",
    "RoundReport",
    "SamplingReport",
    "encode",
    "model_sampler",
    "pairs",
    "rsf_rounds",
    "sample_and_judge",
]


def __getattr__(name):
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


__dir__ = __all__.copy  # what completion offers
