"""Tests of hyperflow/pools/named."""
