"""Credit over files: shipped rules, cases, accounts, and the computation partition by partition."""
