"""What people see of a program, and type at it: its command line, the table of its jobs, the question after Ctrl-C.

`line` reads the command line and runs the program, `options` is what hyperflow adds to it, `display` shows the jobs
while they run, `table` how they look, `interrupt` what follows from signals, `rehearsal` a run that submits nothing.
"""
