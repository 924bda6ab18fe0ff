"""Metrics, thresholds, uncertainty and figures: arrays in, numbers out.

Nothing here knows a network or a file format. Higher scores are more anomalous everywhere, and a score equal to the
threshold counts as anomalous.
"""
