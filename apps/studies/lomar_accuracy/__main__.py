"""``python -m apps.studies.lomar_accuracy``."""

import sys

from apps.studies.lomar_accuracy.study import main

if __name__ == "__main__":
    sys.exit(main())
