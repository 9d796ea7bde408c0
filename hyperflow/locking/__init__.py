"""Locks: the rules (pure), and the lock manager, which applies them for flows and workers of one Job.

The head has one lock manager, and so has the master; `with_lock` asks it. It may import `errors`, `aio` and the
number types (wire/numbers.py).
"""
