"""The methods, one file each; the table is `METHODS` in models/training/__init__.py."""
