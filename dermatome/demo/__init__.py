"""The demo's embedded cohort: toy slides with known truth, a local server in HPA's shape, a small Cellpose network."""
