"""How a process finds an instance and what it knows of it. Runs in every process; imports only the data plane."""
