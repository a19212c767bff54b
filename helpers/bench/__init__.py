"""Latency on the CPU: interleaved rounds, statistics, the floor, the reference engine."""
