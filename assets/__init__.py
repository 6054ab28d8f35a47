"""The assets: one file a stage, below `skin/`.

Belongs here: which inputs a stage reads, the one call into `dermatome` it makes, the files it writes, what it reports.
Does not: science (`dermatome`), configuration (`resources`), when things run (`orchestration`).
"""

import warnings

import dagster as dg

# `backfill_policy`, partitioned checks and others are in beta or preview. The many-slides pattern depends on them,
# which is accepted (docs/decisions/0001); a warning at every import would only hide others.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
