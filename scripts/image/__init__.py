"""The image test: builds the Dockerfile, runs the server in it, does the main job against it."""
