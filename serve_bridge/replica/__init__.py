"""A replica admits requests, runs user code and answers. One process each; knows no router and no client."""
