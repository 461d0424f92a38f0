"""The openfacility server."""

import os

# Engines start programs all the time: gRPC would log a line about each. It has to know before it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
