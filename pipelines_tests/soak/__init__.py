"""`make soak`: the real platform under everything that goes wrong at once, and what must be true afterwards.

Not in the default suite: it takes many minutes. Start reading with `course.py`.
"""
