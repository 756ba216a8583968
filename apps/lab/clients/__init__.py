"""The clients: the app that runs them, honest and malicious roles, and those that lie to the spot check."""
