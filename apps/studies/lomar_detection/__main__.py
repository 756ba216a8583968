"""``python -m apps.studies.lomar_detection``."""

import sys

from apps.studies.lomar_detection.study import main

if __name__ == "__main__":
    sys.exit(main())
