"""Registers under torture: real client processes and real servers, with what networks, machines and clouds do to them.

`python -m tests.torture --help`, or `make torture`. A run draws everything that it does to them from one seed, and
prints it; real processes differ from run to run all the same. Every register's history is judged for linearizability.
"""
