"""The assets: one file a stage, below `skin/`.

Belongs here: which inputs a stage reads, the one call into `dermatome` it makes, the files it writes, what it reports.
Does not: science (`dermatome`), configuration (`resources`), when things run (`orchestration`).
"""
