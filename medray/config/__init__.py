"""The schema of a config file: one pydantic model per section, one file each. Imports neither torch nor Ray.

`read` loads a Config from a file, `Config.override` returns a changed copy, and `dump` writes a Config as YAML.
"""

from medray.config.loading.load import dump, read
from medray.config.schema import Config
from medray.config.section import Section

__all__ = ["Config", "Section", "dump", "read"]
