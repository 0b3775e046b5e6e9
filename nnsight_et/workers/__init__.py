"""Calls carried out by worker processes of Ray, each with a model of its own: on this machine, or on a cluster.

The driver, which is the run, sends calls of plain functions and plain data, and stores what comes back in the order
the calls have. Where RAY_ADDRESS is set, workers run on that cluster; else Ray is started here, for this run alone, on
the loopback interface.
"""
