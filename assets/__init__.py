"""The assets: one file a stage, below `skin/`.

Belongs here: which inputs a stage reads, the one call into `dermatome` it makes, the files it writes, what it reports.
Does not: science (`dermatome`), configuration (`resources`), when things run (`orchestration`).
"""

import warnings

import dagster as dg

# `backfill_policy`, partitioned checks and their like are what the many-slides pattern stands on; that they are young
# is known (docs/decisions/0001), and told again at every import it hides what matters.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
