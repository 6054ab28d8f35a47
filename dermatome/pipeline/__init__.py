"""Runs one stage over many slides: the protocol of a stage, the reuse of results, and the batch runner."""
