"""Latency on the CPU: interleaved rounds, statistics, results, the blog's engine."""
