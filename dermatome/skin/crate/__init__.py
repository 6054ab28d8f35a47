"""Crates: export of the results of genes, and their recomputation on other machines."""
