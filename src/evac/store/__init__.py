"""Where runs are remembered and who may act: compare-and-set keys, leases with fencing tokens, journals."""
