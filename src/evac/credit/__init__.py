"""What an outage is worth to each account: windows, rules as data, the ledger, and two engines for it.

Pure: files, stores and clocks belong to `app.credit`. Money is an integer in minor units.
"""
