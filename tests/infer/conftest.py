"""Makes crew.py importable, which child processes import by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
