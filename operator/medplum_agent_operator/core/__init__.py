"""What decides. Values in, values out: nothing here knows a client, a clock, the environment, a logger or a framework."""
