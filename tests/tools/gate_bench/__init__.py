"""What the gate costs: time, CPU and memory, next to a direct connection in the same run. `make bench-gate`."""
