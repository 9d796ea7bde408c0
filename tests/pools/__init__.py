"""Tests of hyperflow/pools."""
