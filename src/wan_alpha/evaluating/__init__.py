"""What `evaluate.py` does: from a checked configuration to tables, pictures and a report."""
