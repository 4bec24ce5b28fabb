"""Encoders of text, pictures and sound: everything that gives a Condition."""
