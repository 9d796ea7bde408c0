"""The `hyperflow` command.

`main` reads the command line. `jobs` has the commands about a program's jobs, `variables` those about
its variables, `runs` finds runs on the disk.

`doctor` runs the checks, `checks`, `reach` and `hostkeys` are the checks, `probe` is a shell on a node, `verdicts`
turns what was found into words, `report` is what is printed, `check` one check's outcome.
"""
