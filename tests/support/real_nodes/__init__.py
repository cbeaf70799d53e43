"""A clinic on real nodes: agents, devices, the operator's pod, and evidence of what ran when."""
