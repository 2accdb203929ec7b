"""Where it runs: thin Ray shells around plain classes."""
