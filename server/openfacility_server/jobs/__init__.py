"""Jobs: submit, find, steer and follow batch jobs on the facility's compute resources."""
