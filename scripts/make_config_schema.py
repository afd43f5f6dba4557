"""Write the JSON Schema of configuration files from the rules of the options, for editors.

python scripts/make_config_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from fggp_deploy.training import recipes
from fggp_deploy.training.config import PruneConfig

if __name__ == "__main__":
    path = Path(recipes.__file__).parent / "schema.json"
    path.write_text(json.dumps(PruneConfig.schema(), indent=2) + "\n")
