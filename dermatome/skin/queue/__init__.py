"""Which regions of slides to annotate next."""
