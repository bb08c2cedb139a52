"""The machine and the process: files, signals, hosts, workers, commands."""
