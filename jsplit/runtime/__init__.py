"""What the program runs on: devices, meshes, hosts, compiled programs, files."""
