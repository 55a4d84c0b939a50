"""Runtimes: what turns the files of a version into a function from arrays to arrays."""
