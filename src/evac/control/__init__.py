"""What operators use, with two implementations: the store, or the API of a war room."""
