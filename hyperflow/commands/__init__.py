"""Many commands without a program: `hyperflow array`, and what is known of its tasks."""
