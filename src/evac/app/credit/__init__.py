"""Credits from files: shipped rules, cases, accounts, and the computation by partition."""
