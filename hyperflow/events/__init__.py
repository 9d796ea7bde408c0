"""What a run leaves behind: the event log, its format with a version, its writer and reader.

The head writes it; commands and pages read it, also of runs that are dead or old. It may import `errors`, `saying`
and the number types (wire/numbers.py).
"""
