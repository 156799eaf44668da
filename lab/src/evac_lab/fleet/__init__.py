"""A fleet of simulated servers whose management controllers speak Redfish, and the power that feeds them."""
