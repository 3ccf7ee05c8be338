"""Messages between the daemon and its children."""
