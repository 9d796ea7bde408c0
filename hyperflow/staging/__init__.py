"""Files of evaluations: where they are known from, how they come to a node, and what comes home."""
