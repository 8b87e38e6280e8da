"""The state of an instance on disk. Runs in the controller and in processes that apply a state; knows specs only."""
