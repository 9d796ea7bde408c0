"""Tests of calls as bytes."""
