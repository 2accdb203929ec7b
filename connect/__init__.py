"""What comes in and goes out: the demo fleet, files."""
