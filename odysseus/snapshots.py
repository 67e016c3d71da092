"""The stream that stands in for the frames of an ended answer, and who has seen it."""

from __future__ import annotations

from collections.abc import Sequence

from odysseus.errors import StoreError
from odysseus.events import Ended, Snapshot, snapshot_frames
from odysseus.messages import Message
from odysseus.replay import END, event_id
from odysseus.states import Status

__all__ = ["ends_of", "snapshot_of"]


def snapshot_of(message: Message) -> bytes:
    """Return the stream that stands in for the frames of an ended answer. Raises `StoreError` while it hasn't ended."""
    if message.status is Status.STREAMING or message.run_id is None:
        raise StoreError(f"message {message.id} waits in the spool")
    return snapshot_frames(
        message.run_id,
        Snapshot(message.content, message.reasoning, message.parts, message.status),
        Ended(
            message.status,
            message.stop_reason,
            message.id,
            message.finish_reason,
            message.usage,
            message.timings,
        ),
    )


def ends_of(message: Message) -> Sequence[str]:
    """Return the event ids that say: whoever has this has seen the end."""
    assert message.run_id is not None
    last = [] if not message.events else [event_id(message.run_id, message.events - 1)]
    return [event_id(message.run_id, END), *last]
