"""``python -m apps.studies.faa_table``."""

import sys

from apps.studies.faa_table.study import main

if __name__ == "__main__":
    sys.exit(main())
