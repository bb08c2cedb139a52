"""Ways to learn: what a method is, and each one."""
