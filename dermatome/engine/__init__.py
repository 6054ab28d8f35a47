"""Many slides at full speed: the phases of one stage's work overlap, in one process, several, or a cluster's."""
