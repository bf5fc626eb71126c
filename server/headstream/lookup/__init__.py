"""Documents kept and found by their vectors: a service of its own, and a client of Headstream."""
