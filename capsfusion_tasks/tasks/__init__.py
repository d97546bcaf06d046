"""One function for each task of the DAGs; ``local_run`` calls them in one process."""
