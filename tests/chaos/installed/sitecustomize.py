"""Imported by each Python process that has this directory on its PYTHONPATH, before anything else."""

from tests.chaos.bugs import install

install()
