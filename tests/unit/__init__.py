"""Table tests of the parts: values in, values out; no cluster, no clock, no network."""
