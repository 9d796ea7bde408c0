"""The `hyperflow` command.

`main` reads the command line. `jobs` has the commands about a program's jobs, `variables` those about its variables;
`runs` finds runs on the disk. `results` shows what they have recorded; `gc` what takes space, which `space` finds and
removes.

`doctor` runs the checks, and has those of this machine and Slurm; `reach` has those of a node, with `probe`, a shell
there. `verdicts` puts findings into words, `check` is the record of one, `report` prints them.
"""
