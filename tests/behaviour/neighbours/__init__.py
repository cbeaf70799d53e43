"""Other programs in users' clusters: `table` has a row for each, `policies` their objects, `test_neighbours` plays and judges a row."""
