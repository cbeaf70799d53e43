"""The adapters to the outside: requests to the API server, requests to gates, and the health server."""
