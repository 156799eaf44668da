"""The format of estate files: what may be written, how it is read, and its errors."""
