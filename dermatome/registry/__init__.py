"""Versions of trained networks: kinds, lineage, leakage, the hold-out set, promotion and the champion."""
