"""Who is let in: TLS files and bearer tokens that may change while a service runs."""
