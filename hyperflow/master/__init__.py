"""The master: what runs beside a Cluster computation, keeps its run directory, and asks Slurm for allocations."""
