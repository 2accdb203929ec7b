"""Benches and smoke runs: each ends with one JSON line of flat, named figures."""
