"""Tests of how nodes are reached."""
