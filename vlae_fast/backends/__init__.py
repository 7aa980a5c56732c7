"""Backends of the ops: the table of who can run which, and for each row a module of functions named like the ops."""

from .table import NAMES, OPS, TABLE, Backend, check_name, pick, report

__all__ = ["NAMES", "OPS", "TABLE", "Backend", "check_name", "pick", "report"]
