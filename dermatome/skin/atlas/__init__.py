"""The atlas: all genes by relative depth, and markers as a control."""
