"""The paper's method as pure functions: no files, no sockets, no command line."""
