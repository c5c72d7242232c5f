"""A server and its clients in processes of their own, over gRPC and mutual TLS."""

import os

# The package reports broken handshakes itself. gRPC reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
