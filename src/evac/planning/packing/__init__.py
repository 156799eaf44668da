"""The packer: which replica stands on which server, in plain arrays; knows nothing of estates.

`problem` owns the values, `state` and `kernels` one packing that grows and shrinks, `prices` and
`repair` what makes it better, `bound` how good any packing can be. Import from `evac.planning.place`.
"""
