"""Tests of evaluations through the engine, launchers and workers."""
