"""Failed evaluations, taken home: each leaves a capsule in its run's directory, from which it runs again elsewhere."""
