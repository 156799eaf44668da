"""The port of operators, with two ways behind it: the store, or the API of a war room."""
