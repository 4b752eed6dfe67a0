"""What beaver.py leads through: questions, steps, the session; every step is a subprocess of a script."""
