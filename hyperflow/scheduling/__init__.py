"""Who runs what, where: pure state, events in, effects out.

The head uses it, and tests that play histories. It may import `errors` and the number types (wire/numbers.py). No I/O,
no clock, no asyncio.
"""
