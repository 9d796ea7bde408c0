"""Who runs what, where: pure state, events in, effects out.

Used by the head, by tests that play histories, and by what predicts a run. No I/O, no clock, no asyncio here; it
imports `errors` and the number types (wire/numbers.py) and nothing else of hyperflow.
"""
