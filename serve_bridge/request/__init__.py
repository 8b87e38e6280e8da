"""What a backend receives: `ServeRequest`, with its JSON bodies and forms."""
