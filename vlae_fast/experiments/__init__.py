"""Whole experiments: the demonstration, and how a window collapses a code. Import the module that you want."""
