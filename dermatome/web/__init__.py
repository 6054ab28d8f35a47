"""The web app: pages over the functions that the platform also runs (`dermatome web`; needs ``dermatome[web]``).

Belongs here: pages, what they accept, how they show results. Does not: science, and anything that uses Dagster.
"""
