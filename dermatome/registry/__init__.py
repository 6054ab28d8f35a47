"""Versions of trained networks: kinds, lineage, leakage, reports, the hold-out set, the champion."""
