"""Parts of a process. Runs in every process; knows threads, tasks and packages; must not know the instance."""
