"""Tests of what reads Slurm's texts, against files made by a real Slurm (`golden.py`) and against Slurm itself."""
