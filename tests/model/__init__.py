"""Models: random histories of the parts whose errors show only in rare orders of events. No processes, no real time.

Each model drives the real code of its part (the scheduler, the locks, the life of a job, the master) and pretends the
rest of the world: nodes, workers, flows, Slurm, a disk. A history is a list of events that follows from a seed; what
does not fit the state is passed over. So a history of which some events were taken away is a history, too, and a
failing one can be made small. `simulator` has what all models share.

    python -m tests.model --histories 100000 --seed 7 [--only scheduler]
"""
