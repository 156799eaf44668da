"""What an outage is worth to each account: windows, rules as data, the ledger, and two engines for it.

Pure: files, stores and clocks are the business of `app.credit`. Money is an integer in minor units.
"""
