# Made from _async/__init__.py by clients/python/generate_sync.py; change that one.
"""The client for threads."""
