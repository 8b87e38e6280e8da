"""The data plane: frames and stream states without I/O, authentication, and the connections over them."""
