"""Scores that compare predictions with ground truth: semantic, instances, panoptic, ordinal."""
