"""`python -m skyhold`: the command line, where no `skyhold` is on the path."""

import sys

from skyhold.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
