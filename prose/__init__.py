"""Judges the language of the documentation and of the code: plain English, by three counted rules."""
