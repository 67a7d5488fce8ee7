"""Where records of what was predicted go: Redis Streams and Kafka topics."""
