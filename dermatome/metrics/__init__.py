"""Scores of a prediction against ground truth: semantic, instances, panoptic."""
