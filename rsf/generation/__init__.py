"""From a model's own samples to training data: sample, judge, keep, fine-tune, and again.

Names are loaded when they are asked for: `sample_and_judge` needs `datasets`, `server_sampler` openai
too, the others PyTorch and transformers.
"""

from importlib import import_module

_FILES = {
    "ModelSampler": "sampler",
    "RewardError": "judging",
    "RoundReport": "rounds",
    "SamplingReport": "judging",
    "ServerSampler": "engines",
    "Shared": "engines",
    "Unfinished": "drafts",
    "encode": "encoding",
    "model_sampler": "sampler",
    "pairs": "judging",
    "rsf_rounds": "rounds",
    "sample_and_judge": "judging",
    "server_sampler": "engines",
    "shared": "engines",
}
__all__ = [
    "ModelSampler",
    "RewardError",
    "RoundReport",
    "SamplingReport",
    "ServerSampler",
    "Shared",
    "Unfinished",
    "encode",
    "model_sampler",
    "pairs",
    "rsf_rounds",
    "sample_and_judge",
    "server_sampler",
    "shared",
]


def __getattr__(name):
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


__dir__ = __all__.copy  # what completion offers
