"""Techniques: each a function that takes a prompt one step further. `registry` lists them."""
