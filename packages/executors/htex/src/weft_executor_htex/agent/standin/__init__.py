"""Modules of the agent's file that stand for others there. Nothing here imports them."""
