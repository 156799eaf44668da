"""A fixed plan played many times with uncertain durations and failing steps."""
