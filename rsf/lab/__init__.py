"""What makes this repository's numbers: data, models, experiments, benchmarks, reports, notebooks.

No room imports it.
"""
