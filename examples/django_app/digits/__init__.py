"""The application: pages for digits, a stream of guesses, and a page for the split of the traffic."""
