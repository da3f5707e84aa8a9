"""Synthesis of instruction and dialogue data: prompt grids, opening questions, simulated chats, and clean training data.

The steps are `prompts` (requests and opening questions), `chat` (conversations of one to three turns) and `clean`
(training data). Every draw depends on the seed and on ids alone, so that no order of processing changes a result.
"""
