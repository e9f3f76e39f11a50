# The container image; included by the Makefile.
.PHONY: image-test image-clean constraints

image-test: install ## Build the Dockerfile, serve from it, do the main job against it (Docker, or buildah as root)
	$(BIN)/python -m scripts.image $(ARGS)

image-clean: ## Remove what image-test keeps: the base image, the store, downloaded packages
	rm -rf .image

constraints: install-dev ## Write constraints.txt anew, from what pip resolves today
	$(BIN)/python -m scripts.constraints
