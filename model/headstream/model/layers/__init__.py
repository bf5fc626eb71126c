"""The parts model families are built from, one noun per file."""
