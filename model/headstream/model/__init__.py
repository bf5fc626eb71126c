"""The model: packed batch in, logits and contextual embeddings out. Knows torch, never gRPC."""
