"""The driver of servers and breakers behind Redfish."""
