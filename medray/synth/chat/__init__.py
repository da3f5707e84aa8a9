"""Chats: the situation that is drawn for each question, the prompts of both roles, the turns, and the checks of replies."""
