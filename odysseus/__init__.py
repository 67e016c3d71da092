"""Odysseus streams LLM answers over SSE: detached runs that outlive their client, compare panes that stop with it."""

__version__ = "0.1.0"
