"""The outside world: everything that talks to an API server or listens on a socket lives here."""
