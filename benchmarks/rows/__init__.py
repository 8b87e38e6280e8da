"""The rows of the benchmark: the points of each row, and the code of rows with instances of their own."""
