"""One module a command: it reads the command line, calls what does the work, and shows the result."""
