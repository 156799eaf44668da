"""What may be lost and what was, where an asynchronous replica is promoted over a wide area."""


def losses(table, options): ...
