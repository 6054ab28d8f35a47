"""The web app: pages over the same functions that the platform runs (`dermatome web`; needs ``dermatome[web]``).

Belongs here: pages, what they accept, how they show results. Does not: science, and anything of Dagster.
"""
