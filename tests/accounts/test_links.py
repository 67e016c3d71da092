"""Watch links: good until they expire, for one run, and in no other form than the one given out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from odysseus.accounts.links import Link, read, sign
from odysseus.errors import Unauthorized

SECRET = b"sesame-0123456789-0123456789-0123"
NOW = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
SOON = NOW.replace(microsecond=0) + timedelta(hours=1)
SESSION, RUN = "ses_0123456789abcdef01234567", "run-of_the-client"
GOOD = sign(SECRET, SESSION, RUN, SOON)
SIGNED, _, SIGNATURE = GOOD.rpartition(".")


def test_a_link_says_what_it_is_for() -> None:
    assert read(SECRET, GOOD, NOW) == Link(SESSION, RUN, SOON)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,200}", GOOD), "it stands in a URL as it is"


def test_a_time_of_another_zone() -> None:
    assert sign(SECRET, SESSION, RUN, SOON.astimezone(timezone(timedelta(hours=9)))) == GOOD


def test_it_ends_with_its_time() -> None:
    assert read(SECRET, GOOD, SOON - timedelta(microseconds=1)).expires_at == SOON
    for late in (SOON, SOON + timedelta(days=9)):
        with pytest.raises(Unauthorized) as refused:
            read(SECRET, GOOD, late)
        assert str(refused.value) == "the link has expired"


@pytest.mark.parametrize(
    ("session_id", "run_id"),
    [("", RUN), (SESSION, ""), ("a.b", RUN), (SESSION, "a.b"), ("ä", RUN), (SESSION, "x" * 65), ("\n", RUN)],
)
def test_what_no_link_can_name(session_id: str, run_id: str) -> None:
    with pytest.raises(ValueError, match="no link can name"):
        sign(SECRET, session_id, run_id, SOON)


def test_the_longest() -> None:
    longest = sign(SECRET, "s" * 64, "r" * 64, datetime.max.replace(microsecond=0, tzinfo=UTC))
    assert read(SECRET, longest, NOW).run_id == "r" * 64


def signed_otherwise(key: bytes, before: bytes) -> str:
    digest = hmac.digest(key, before + SIGNED.encode(), hashlib.sha256)
    return f"{SIGNED}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


LATER = str(int(SOON.timestamp()) + 1)
FORGED = {
    "empty": "",
    "another session": GOOD.replace(SESSION, "ses_other"),
    "another run": GOOD.replace(RUN, "run-other"),
    "the two swapped": ".".join([RUN, SESSION, *GOOD.split(".")[2:]]),
    "the point between them moved": GOOD.replace(f"{SESSION}.r", f"{SESSION}r.", 1),
    "a later end": ".".join([SESSION, RUN, LATER, SIGNATURE]),
    "the end with a zero before it": ".".join([SESSION, RUN, f"0{int(SOON.timestamp())}", SIGNATURE]),
    "an end in other digits": ".".join([SESSION, RUN, "١٢٣٤٥٦٧٨٩٠", SIGNATURE]),
    "an end that is too long": ".".join([SESSION, RUN, "9" * 13, SIGNATURE]),
    "an end that never comes": ".".join([SESSION, RUN, "9" * 12, SIGNATURE]),
    "a negative end": ".".join([SESSION, RUN, "-1", SIGNATURE]),
    "no signature": SIGNED,
    "an empty signature": f"{SIGNED}.",
    "a signature of nothing": f"{SIGNED}.{'A' * 43}",
    "the signature in lower case": f"{SIGNED}.{SIGNATURE.lower()}",
    "the signature cut": GOOD[:-1],
    "the signature longer": f"{GOOD}A",
    "the signature padded": f"{GOOD}=",
    "another link's signature": f"{SIGNED}.{sign(SECRET, SESSION, 'other', SOON).rpartition('.')[2]}",
    "another secret": sign(b"x" * 32, SESSION, RUN, SOON),
    "no secret": sign(b"", SESSION, RUN, SOON),
    "signed for nothing in particular": signed_otherwise(SECRET, b""),
    "signed for another purpose": signed_otherwise(SECRET, b"odysseus webhook 1\n"),
    "a space before": f" {GOOD}",
    "a line end behind": f"{GOOD}\n",
    "another case": GOOD.swapcase(),
    "letters that aren't ASCII": GOOD.replace("s", "\u017f"),
    "bytes that aren't UTF-8": f"{GOOD}\udcff",
    "a path": f"../{GOOD}",
    "a NUL": f"{GOOD}\0",
    "huge": GOOD * 100_000,
    "huge points": "." * 1_000_000,
    "huge letters": "A" * 1_000_000,
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_forgeries(text: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        read(SECRET, text, NOW)
    assert str(refused.value) == "the link is not valid"


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_every_character_counts(place: int) -> None:
    """The very last, too: the signature is compared as text, so that the bits which say nothing count."""
    changed = GOOD[:place] + ("A" if GOOD[place] != "A" else "B") + GOOD[place + 1 :]
    with pytest.raises(Unauthorized):
        read(SECRET, changed, NOW)
