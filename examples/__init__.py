"""What the README shows, ready to run."""
