"""What steers the picture: encoders of text, pictures and sound."""
