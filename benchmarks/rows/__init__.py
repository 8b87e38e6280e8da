"""The rows of the benchmark: the points of each row, and the code of the rows that need instances of their own."""
