"""The gate: a small relay in front of an agent. Devices keep their connections while the agent behind the gate changes."""
