"""The programs, run as a user runs them: as processes, by their command lines."""
