"""Opening questions: the grid of requests, the patients and answer styles that are drawn, and the parsing of replies."""
