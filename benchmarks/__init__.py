"""Measurements that a user can run: each module prints one table and takes --json FILE."""
