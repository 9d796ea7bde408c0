"""Executors as other people know them: CPython's own tests, and libraries that take an executor."""
