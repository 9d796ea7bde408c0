"""The one process per node that forks, feeds, watches and kills that node's workers, and its parent, the keeper.

It is started as a program of its own; nothing imports it. It may import wire/, `_version` and `files`, so that it
starts fast and works wherever Python does. Only entry.py may import worker/: there a forked child becomes a worker.
"""
