"""What a YAML may say: one pydantic model a section, one file each. Imports neither torch nor Ray.

`read` makes a Config of a file, `Config.override` a changed copy, `dump` the file again.
"""

from medray.config.load import dump, read
from medray.config.schema import Config
from medray.config.section import Section

__all__ = ["Config", "Section", "dump", "read"]
