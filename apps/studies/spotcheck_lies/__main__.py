"""``python -m apps.studies.spotcheck_lies``."""

import sys

from apps.studies.spotcheck_lies.study import main

if __name__ == "__main__":
    sys.exit(main())
