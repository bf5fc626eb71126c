"""The server: gRPC in front, the engine behind, one narrow crossing between them."""
