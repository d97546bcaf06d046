"""Print the requirements of pyproject.toml, so that the image can have its packages in another layer than the code.

python requirements.py airflow celery     the project's dependencies and those of these extras
python requirements.py --only fusion      the dependencies of this extra only
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
