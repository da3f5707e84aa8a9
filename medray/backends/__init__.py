"""The backends: who answers a prompt (a server, a local model, a rule, a file), with one protocol.

Judges, teachers and synthesis ask them. Neither torch nor Ray is imported here: a local model is handed in as a function.
"""
