"""Tests of `hyperflow.debugging`."""
