"""The terminal UI of a Cluster program.

`line` reads the command line and runs the program; `options` has the options that hyperflow adds. `display` shows the
jobs while they run, by `table`. `interrupt` handles Ctrl-C and other signals. `rehearsal` is the dry run.
"""
