"""What happens to a submission: it is begun, checked and published, and a pull request that brings it is looked at."""
