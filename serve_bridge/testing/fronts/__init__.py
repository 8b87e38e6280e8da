"""The contract of fronts, in one class for each subject."""
