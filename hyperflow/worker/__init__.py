"""A forked process that evaluates one call at a time.

The launcher's children run it; functions that the user calls on workers (`worker_info`, `run_command`, locks) import
it, too. It may import shipping/, locking/, wire/ and `errors`.
"""
