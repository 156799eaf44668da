"""Make plans in this process and in worker processes."""
