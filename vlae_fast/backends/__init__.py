"""Who can run an op: the table of backends, and for each row a module of functions named like the ops."""

from .table import NAMES, OPS, TABLE, Backend, check_name, pick, report

__all__ = ["NAMES", "OPS", "TABLE", "Backend", "check_name", "pick", "report"]
