"""A client and a server in two processes: lines, sessions, certificates."""
