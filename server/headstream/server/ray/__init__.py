"""A Ray Serve application: replicas of the whole server, behind Ray's own gRPC port."""
