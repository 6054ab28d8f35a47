"""Benchmarks: each row a ratio from one run, with the bare cost beside it.

``make bench`` runs them all and writes one table. Any module of this folder registers its benchmarks with
:func:`pipelines_tests.benchmarks.rows.benchmark`; nothing else needs to know of it. What belongs here: what says how
fast something is, or how much memory it takes. No test asserts on a time.
"""
