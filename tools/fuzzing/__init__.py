"""What tools/fuzz.py runs: mutations, and the targets that read mutated files and values."""
