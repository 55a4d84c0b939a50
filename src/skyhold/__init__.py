"""Skyhold keeps every version of every model, in every cloud, provably the same."""
