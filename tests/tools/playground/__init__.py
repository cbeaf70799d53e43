"""A cluster and the operator to play with: `make cluster`."""
