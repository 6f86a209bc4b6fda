"""The engine: what runs a turn, and what decides about its items, frames and requests.

Everything here is private. `chatkit_trio.server` and `chatkit_trio.types` have the public names.
"""
