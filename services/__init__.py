"""The embedded parts: a local LLM and a local S3, real servers on loopback, started when first needed."""
