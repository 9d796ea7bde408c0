"""Calls to bytes and back: what travels by name, what by value, what is sent once, and why something cannot travel.

Head and workers use it, and the master for the calls of Jobs. It may import wire/, `errors` and `saying`. No I/O.
"""
