"""What all sides share: frames and messages, shared memory, the claim page, processes, what a machine grants.

Every room above it may import it. It imports the standard library only, because the launcher starts with nothing else.
"""
