"""Manifests that a human reads in the diff."""
