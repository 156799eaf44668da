"""The agent of a site: runs evac's orders locally. It never connects to the store, never leads, and obeys
only signed orders.
"""
