"""The gRPC interface: `continual_v1.proto` and the stubs generated from it."""
