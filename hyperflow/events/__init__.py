"""What a run leaves behind: the event log, its schema, writer and reader.

The head writes it; commands and pages read it, also of runs that are dead or old. It imports `errors` only.
"""
