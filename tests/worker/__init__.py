"""Tests of what a worker does beside evaluating."""
