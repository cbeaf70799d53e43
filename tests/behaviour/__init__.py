"""What the operator does, against a real API server, Deployment controller and scheduler; pods are simulated."""
