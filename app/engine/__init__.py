"""The one owner of the accelerator: a bounded queue, batches over many tasks, a cache of adapted states."""
