"""The application: pages that read digits, a stream of guesses, and the page that splits the traffic."""
