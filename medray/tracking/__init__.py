"""What a run tells: the ledger and its feed to MLflow, the console's lines, the report."""

from medray.tracking.console import Console
from medray.tracking.ledger import EVALS_FILE, STEPS_FILE, Ledger, TrackingSpec, start
from medray.tracking.ledger_line import LedgerLine
from medray.tracking.report import write_report
from medray.tracking.step_file import read_records

__all__ = [
    "EVALS_FILE",
    "STEPS_FILE",
    "Console",
    "Ledger",
    "LedgerLine",
    "TrackingSpec",
    "read_records",
    "start",
    "write_report",
]
