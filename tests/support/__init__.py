"""What tests and tools stand on: clusters, stand-ins, traffic, builders of objects. It holds no test."""
