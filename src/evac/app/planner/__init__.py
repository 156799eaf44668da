"""Making plans: in this process, and in workers of their own."""
