"""`python -m winpop` is the program `winpop`."""

import sys

from winpop.cli.main import main

sys.exit(main())
