"""The gate: a small relay in front of an agent, so that devices keep their connections while the agent behind them changes."""
