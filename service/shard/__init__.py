"""The shard: owns partitions, folds them in one sequencer each, and serves them over gRPC."""
