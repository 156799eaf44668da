"""Who may do what in the war room: the port, and the rule for a room that only its own machine can reach."""
