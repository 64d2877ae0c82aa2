"""The stopwatch: interleaved latency, load time and memory in a fresh process, and only for what passed parity."""
