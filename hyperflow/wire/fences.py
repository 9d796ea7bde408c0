"""Memory barriers, for what processes share without a lock: some processors show writes to others in another order."""

import os

FENCED = os.uname().machine not in ("x86_64", "AMD64", "i686")
"""Whether this processor may show writes to others in another order than that in which they were made."""

fence = os.sched_yield
"""Keeps them in order: the kernel's scheduler contains such a barrier, and Python has no cheaper way to one."""
