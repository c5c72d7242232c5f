"""A client and a server in two processes: lines, sessions, certificates."""

import os

# Broken handshakes are said in our own words. gRPC looks at it when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
