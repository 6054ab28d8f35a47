"""Comparison of HPA's annotation of antibodies with measurements of their cores."""
