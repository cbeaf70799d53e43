"""What the operator costs: latency, writes, memory and CPU, read from the API server's audit log (`make bench`).

Nothing in here looks into the operator: each figure is what the API server received, and what Linux says of the process.
"""
