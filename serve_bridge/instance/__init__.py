"""How a process finds an instance: the file of its address and key, and what the process has learnt of it since."""
