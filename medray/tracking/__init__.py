"""Records of a run: the ledger, which writes steps and evaluations to disk, and its connection to MLflow."""

from medray.tracking.ledger import EVALS_FILE, STEPS_FILE, Ledger, TrackingSpec, start
from medray.tracking.ledger_line import LedgerLine
from medray.tracking.mlflow_run import ParentRun
from medray.tracking.step_file import read_records

__all__ = [
    "EVALS_FILE",
    "STEPS_FILE",
    "Ledger",
    "LedgerLine",
    "ParentRun",
    "TrackingSpec",
    "read_records",
    "start",
]
