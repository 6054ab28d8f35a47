"""Files of the data root: where each lies, atomic writes, records of what was materialized, and downloads.

No images and no science.
"""
