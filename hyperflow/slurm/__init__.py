"""Slurm's texts to data and back, and the commands that are run for it.

Inside an allocation: `nodelist` reads lists of nodes, `allocation` the allocation that a process is in, `scontrol` asks
what the environment does not say. From outside: `script` writes batch scripts, `client` submits, finds, watches and
cancels jobs, by means of `commands`, which runs them; `queue` reads what they print about jobs, `refusal` what they
complain about. Only `scontrol` and `commands` run anything; the others take text.

The room may import `errors`, `aio` and `files`.
"""
