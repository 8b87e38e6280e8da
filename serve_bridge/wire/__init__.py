"""The data plane: frames and stream states without I/O, authentication, and the asyncio connection over them."""
