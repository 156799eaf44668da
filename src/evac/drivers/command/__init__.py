"""The driver of commands: runs a program of the company."""
