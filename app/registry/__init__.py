"""Stored tasks, their versions, examples and predictions. Import `Registry` from `app.registry.repository`."""
