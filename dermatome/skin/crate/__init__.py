"""Crates: results of genes for others, and the same computed again elsewhere."""
