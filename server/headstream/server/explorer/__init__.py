"""The explorer: a page on the admin port that looks inside the models, and its bridge to gRPC."""
