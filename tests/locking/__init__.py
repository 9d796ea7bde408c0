"""Tests of locks: the rules, and the lock manager."""
