"""Jobs on a Slurm cluster: handed over and steered as their owners, followed by events, compared with the queue."""
