"""One function for each task of the DAGs. ``local_run`` calls these functions in one process, without Airflow."""
