"""The controller keeps what users want, makes it so and publishes the routing table. One process per instance."""
