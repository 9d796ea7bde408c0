"""The one process per node that forks, feeds, watches and kills that node's workers, and its parent, the keeper.

It is started as a program of its own; nothing imports it. It imports the standard library and wire/ only, so that it
starts fast and works wherever Python does; a forked child enters worker/ in entry.py and nowhere else.
"""
