"""Backends and endpoints declared beside their code, and the steps which bring an instance to them. Runs in callers."""
