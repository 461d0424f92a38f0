"""Status: what is up, what will be, and what broke a job."""
