"""`make bench-gate`: the gate's time, CPU and memory, compared with a direct connection in the same run."""
