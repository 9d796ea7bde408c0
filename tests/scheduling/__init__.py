"""Tests of the scheduler and the CPU pool, without processes."""
