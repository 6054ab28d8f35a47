"""Results of a data root for other programs: QuPath, scverse."""
