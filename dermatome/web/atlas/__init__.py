"""The web atlas: what the platform's files say of genes and slides, as pages that only read.

Belongs here: pages over the reports, tables and images of the data root. Does not: what writes, or needs Gradio.
"""
