"""The command line, one file per verb.

A verb parses its arguments, calls other rooms, starts Ray and handles signals.
"""
