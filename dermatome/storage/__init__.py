"""Files of the data root: their layout, atomic writes, records of what was materialized, and downloads.

It contains no image processing and no science.
"""
