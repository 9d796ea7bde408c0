"""Tests of what a run shows of itself while it runs."""
