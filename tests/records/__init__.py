"""Tests of the records of runs, and of the commands that show them."""
