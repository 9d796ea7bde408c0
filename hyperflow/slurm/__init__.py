"""Slurm's texts to data, and the few commands that are asked for them.

`nodelist` reads lists of nodes, `allocation` the allocation that a process is in, `scontrol` asks what the
environment does not say. Only `scontrol` runs anything; the others take text.
"""
