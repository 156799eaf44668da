"""What every loss does to every service and store: computed once for all losses, read by every rule."""
