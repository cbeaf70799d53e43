"""Measure the operator: latency and writes from the API server's audit log, memory and CPU from /proc (`make bench`).

Nothing in here looks into the operator: each figure is what the API server received, and what Linux says of the process.
"""
