"""Print the requirements of pyproject.toml. The Dockerfile installs them before it copies the code, to cache this step.

python requirements.py airflow celery     the dependencies of the project and of these extras
python requirements.py --only fusion      only the dependencies of this extra
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
