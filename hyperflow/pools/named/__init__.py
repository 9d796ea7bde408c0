"""Pools that outlive a program: a manager that lends CPUs, and the programs that borrow them."""
