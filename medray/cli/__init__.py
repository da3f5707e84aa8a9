"""The command line, one file per verb.

A verb parses its arguments, calls the other packages of medray, starts Ray and handles signals.
"""
