#!/bin/bash
#SBATCH --job-name=root_search.3f2a9c1e-0
#SBATCH --comment="hyperflow 3f2a9c1e-0"
#SBATCH --output=/shared/runs/1/slurm.out
#SBATCH --open-mode=append
#SBATCH --chdir=/shared/runs/1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=0:03:59
#SBATCH --requeue

cd -- /shared/runs/1 || { echo "hyperflow: $HOSTNAME"' does not see /shared/runs/1: the base directory has to be on a file system that all nodes share' >&2; exit 72; }
exec /opt/python -m hyperflow.master.runner /shared/runs/1
