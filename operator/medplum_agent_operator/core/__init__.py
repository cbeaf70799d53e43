"""The decisions, as pure functions from values to values: no client, clock, environment, logger or framework in here."""
