"""The shelves: one folder a field, one file a paper. Each folder's `__init__.py` is its index."""
