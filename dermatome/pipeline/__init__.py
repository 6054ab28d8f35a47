"""One stage over many slides: what a stage is, what is reused, and how slides are run."""
