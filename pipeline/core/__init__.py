"""The terms of the project as plain values: states, codes, summaries, events, errors. No IO."""
