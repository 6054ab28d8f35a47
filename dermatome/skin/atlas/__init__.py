"""The atlas of all genes by relative depth, with marker genes as a control."""
