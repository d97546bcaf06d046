"""Prints what pyproject.toml asks for, so that packages are a layer of the image that code does not touch.

python requirements.py airflow celery     the project's own and those of the extras
python requirements.py --only fusion      those of the extra alone
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [name for name in sys.argv[1:] if name != "--only"]
wanted = [] if "--only" in sys.argv else list(project["dependencies"])
for extra in extras:
    wanted += project["optional-dependencies"][extra]
print("\n".join(wanted))
