"""Servers and scripts that run in the environments of the peers: nothing of `app` is imported here."""
