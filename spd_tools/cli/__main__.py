"""`python -m spd_tools.cli`."""

import sys

from spd_tools.cli import main

sys.exit(main())
