"""What HTTP says: headers, paths, routes and bodies as values. Knows no endpoint, no socket and no framework."""
