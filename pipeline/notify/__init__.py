"""Notifies addresses and files of the end of a run. Read `notifier` first: `notifying` does it."""
