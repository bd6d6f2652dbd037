"""One verb a file: what publish, promote and rollback mean, wherever they are called from."""
