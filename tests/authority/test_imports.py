"""What an authority loads."""

import subprocess
import sys


def test_the_authority_loads_no_torch() -> None:
    code = "import sys, flwr_faa.authority.cli, flwr_faa.authority.service; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
