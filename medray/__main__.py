import sys

from medray.cli.main import main

sys.exit(main())
