"""A Kubernetes operator for the Medplum Agent: handoffs without a gap, and no downgrade without an approval."""
