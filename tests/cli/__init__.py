"""Tests of hyperflow.cli."""
