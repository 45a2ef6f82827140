"""Draw candidates, keep each with probability A, learn from what was kept.

The modules are imported by name (`from rsf.acceptance import accept`); importing `rsf` alone loads nothing
heavy.
"""

__version__ = "0.1.0"
