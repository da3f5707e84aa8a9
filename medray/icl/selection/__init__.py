"""The selection of examples for a document: candidates, their order, and who must never be an example."""
