"""What makes this repository's numbers: data and models, experiments, benchmarks, reports, notebooks. No room imports it."""
