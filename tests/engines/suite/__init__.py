"""What every engine promises, tried on all of them with real batch systems: the local one, and Slurm both ways."""
