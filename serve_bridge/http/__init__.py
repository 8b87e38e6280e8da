"""HTTP as values. Runs in every process; knows headers, paths and answers; must not know sockets or frameworks."""
