"""Nodes that come and go: pools of allocations and of hosts, what they need, and who has them."""
