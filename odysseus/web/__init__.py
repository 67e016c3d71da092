"""The HTTP side: parse, call, write. What the calls do is decided further down."""
