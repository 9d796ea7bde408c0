"""What runs beside a Job: the engine, which carries out what the scheduler decides, and the links to the nodes.

Only `_job` and the command line open it. It may import everything below it, but never launcher/ or worker/: they run
in other processes, and what both sides have to know is in wire/.
"""
