"""The web atlas: read-only pages of the platform's results for genes and slides.

Belongs here: pages over the reports, tables and images of the data root. Does not: what writes, or needs Gradio.
"""
