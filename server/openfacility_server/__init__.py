"""The openfacility server."""
