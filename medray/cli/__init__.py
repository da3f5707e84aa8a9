"""The command line, one file per verb. A verb parses its arguments, composes rooms, and owns the start of Ray and signals."""
