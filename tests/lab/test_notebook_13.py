"""Notebook 13: its prose is held to what its cells print and to the stored runs."""

import re

import nbformat
import pytest

from rsf.lab import notebooks, records, verdicts

NAME = "13_distil_and_prune_first"
WRONG = (").sum(1) / 4", ").sum(1) / 2")
