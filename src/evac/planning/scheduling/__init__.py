"""The general scheduler: tasks, order, renewable resources and weights as plain arrays; knows nothing of
estates.

`tasks` holds the values and their checks; the other modules are compiled kernels, imported on first use.
"""
