"""The engine: sequences, block ids and the step loop, in a process of their own."""
