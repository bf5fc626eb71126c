"""Masked attention over the packed batch: one interface, a backend per device."""
