"""The workspace of several machines: products, claims and what grows, on S3."""
