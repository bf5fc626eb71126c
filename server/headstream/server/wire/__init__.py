"""Protobuf messages to domain values and back, checked before any work is done."""
