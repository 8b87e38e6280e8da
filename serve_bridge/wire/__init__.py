"""The data plane: frames and streams without I/O, authentication, and the connections over them. Knows no endpoint."""
