"""Types that everyone shares; imports nothing of the project."""
