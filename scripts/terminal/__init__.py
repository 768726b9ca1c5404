"""What scripts that take a while do at a terminal: show how far they are, and heed Ctrl-C."""
