"""Benchmarks against other libraries and a raw socket; see docs/performance.md."""
