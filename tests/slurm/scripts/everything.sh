#!/bin/bash
#SBATCH --job-name=root_search.3f2a9c1e-0
#SBATCH --comment="hyperflow 3f2a9c1e-0"
#SBATCH --output=/shared/runs/1/slurm.out
#SBATCH --open-mode=append
#SBATCH --chdir=/shared/runs/1
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --time=1-12:00:00
#SBATCH --mem-per-cpu=1500
#SBATCH --partition=short,long
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --constraint="[rack1*2&rack2*1]"
#SBATCH --gres=gpu:2
#SBATCH --exclusive
#SBATCH --mail-type=END,FAIL
#SBATCH --mail-user=somebody@example.org
#SBATCH --no-requeue
#SBATCH --nice=100
#SBATCH --contiguous
#SBATCH --signal=B:USR1@300

cd -- /shared/runs/1 || { echo "hyperflow: $HOSTNAME"' does not see /shared/runs/1: the base directory has to be on a file system that all nodes share' >&2; exit 72; }
module load mpi
export OMP_PROC_BIND=close
exec /opt/python -m hyperflow.master.runner /shared/runs/1
