"""The directory of one command on a node: its inputs are linked there, its outputs are taken from there."""
