"""Makes the channel of this machine's own shell, ``weft_test_shell``, importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
