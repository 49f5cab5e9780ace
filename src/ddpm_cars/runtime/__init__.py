"""The machine and the processes that a command runs on: files, folders, signals, processes, console, hardware."""
