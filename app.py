"""Start Odysseus: `python app.py`. Settings come from the environment; see the README."""

import sys

from odysseus.cli import main

if __name__ == "__main__":
    sys.exit(main())
