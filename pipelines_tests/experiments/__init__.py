"""Experiments: what a choice in training does to the scores, over several seeds, as tables for `docs/results.md`.

``python -m pipelines_tests.experiments`` runs them all and writes one table each. What belongs here: a question about
scores that a lab would ask. How fast something is belongs to the benchmarks; what must hold, to the tests.
"""
