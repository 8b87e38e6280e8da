"""Runs in replicas: admits requests and runs user code for them; knows no caller, no router and no controller."""
