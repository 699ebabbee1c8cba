"""How good a codec is, in numbers, and what it looks like."""
