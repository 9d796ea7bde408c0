"""A task on a worker: the command runs, its output goes home in pieces."""
