"""The estate that a controller runs on: copied, watched, switched."""
