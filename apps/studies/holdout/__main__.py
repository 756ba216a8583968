"""``python -m apps.studies.holdout``."""

import sys

from apps.studies.holdout.study import main

if __name__ == "__main__":
    sys.exit(main())
