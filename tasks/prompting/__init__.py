"""Prompted contenders: how a prompt is built, rendered, asked, parsed and paid for."""
