"""Nodes that join by themselves: the head as an ssh server, and the node that comes to it."""
