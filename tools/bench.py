"""Measure the server against other TFTP servers and against its budgets."""
def add_arguments(parser): pass
def run(a): return 0
