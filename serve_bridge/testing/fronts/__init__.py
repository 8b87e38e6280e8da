"""The contract of fronts, a class a subject; a front is what answers HTTP for endpoints."""
