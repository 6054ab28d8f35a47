"""Synthetic slides with known ground truth, the demo cohort, and the mock HPA server."""
