"""Where runs are recorded and who may act: compare-and-set keys, leases with fencing tokens, journals."""
