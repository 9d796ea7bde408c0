#!/bin/bash
#SBATCH --job-name=root_search_of_x_y.3f2a9c1e-0
#SBATCH --comment="hyperflow 3f2a9c1e-0"
#SBATCH --output="/shared/a b/100%%j #1.out"
#SBATCH --open-mode=append
#SBATCH --chdir="/shared/it's \"so\" é"
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=30
#SBATCH --account="a \"b\" \\c #d $e"
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --wckey="it's"

cd -- '/shared/it'"'"'s "so" é' || { echo "hyperflow: $HOSTNAME"' does not see /shared/it'"'"'s "so" é: the base directory has to be on a file system that all nodes share' >&2; exit 72; }
exec '/opt/a b/python' -m 'it'"'"'s' '' '$HOME' '*'
