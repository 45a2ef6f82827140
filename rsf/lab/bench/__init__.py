"""Timings that can be trusted: interleaved, as ratios of neighbours in time, a file for each room."""
