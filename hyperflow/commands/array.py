"""The Job that runs the tasks of an array."""
