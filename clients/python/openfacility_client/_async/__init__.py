"""The client for asyncio, from which `_sync` is made by `generate_sync.py`."""
