"""`python -m luxx.entrypoints.cli`"""

import sys

from luxx.entrypoints.cli import main

sys.exit(main())
