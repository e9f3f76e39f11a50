"""Meta-training: from a recipe and a data folder to a checkpoint. No HTTP, no database."""
