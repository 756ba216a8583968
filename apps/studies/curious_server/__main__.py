"""``python -m apps.studies.curious_server``."""

import sys

from apps.studies.curious_server.study import main

if __name__ == "__main__":
    sys.exit(main())
