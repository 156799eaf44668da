"""The effect of every loss on every service and store: computed once for all losses, read by every rule."""
