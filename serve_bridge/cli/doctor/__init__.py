"""The verb `doctor`: facts are collected first, then each check turns its facts into findings, without I/O."""
