"""Tests of the master: its jobs' lives, its files, and what it does when it is killed."""
