"""The queue of slide regions to annotate next."""
