"""The pocket file: everything that is needed when nothing else is left."""
