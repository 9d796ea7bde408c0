"""Tests of hyperflow/pools/joining."""
