"""Retrieved examples for in-context learning (RAG-ICL): embed and index training documents, select examples for each test
document, write prompts with them, ask a model, and score its answers.
"""
