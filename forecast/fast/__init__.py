"""The same network, several times faster: one form that trains, one that serves."""
