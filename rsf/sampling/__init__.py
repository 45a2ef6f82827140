"""From a density to exact samples: rejection with its cost, a safe k, a hat of strips that is drawn fast."""

from rsf.sampling.bound import log_k_bound
from rsf.sampling.rejection import Draws, rejection_sample
from rsf.sampling.strips import StripEnvelope

__all__ = ["Draws", "StripEnvelope", "log_k_bound", "rejection_sample"]
