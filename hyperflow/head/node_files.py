"""Files on their way to nodes that do not see them: from here, or from node to node."""
