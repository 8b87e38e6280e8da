"""The output of a run: tables, plots, verdicts on the bars, and the description of the machine."""
