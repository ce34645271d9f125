"""Publishing a contender to S3, the champion pointer, and the round trip that proves it."""
