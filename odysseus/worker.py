"""One of the workers of `odysseus serve --workers`, which starts them by this module's name."""

from __future__ import annotations

import sys

from odysseus.errors import SettingsError
from odysseus.serving import run
from odysseus.settings import Settings

if __name__ == "__main__":
    try:
        run(Settings.load(), worker=True)
    except SettingsError as error:
        print(f"odysseus: {error}", file=sys.stderr)
        sys.exit(2)
