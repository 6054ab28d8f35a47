"""Synthetic slides with known ground truth, the cohort of the demo, the mock HPA server, and small trained networks."""
