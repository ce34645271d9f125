"""From a source to validated splits, and from splits to tokens."""
