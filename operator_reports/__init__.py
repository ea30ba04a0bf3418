"""Reports of the operators that models are made of and where they run."""
