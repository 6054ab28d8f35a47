"""When and with what things run: definitions, jobs, schedules, sensors, and the demo.

Belongs here: wiring assets to resources, deciding which partitions are requested when. Does not: what a stage does
(`assets`), what it is given (`resources`), science (`dermatome`).
"""
