"""From a spec to running shards: log, store, gRPC, client."""
