"""The command line of openfacility."""
