"""The operator against a real API server, Deployment controller and scheduler. Pods are simulated."""
