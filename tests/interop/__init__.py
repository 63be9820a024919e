"""Conversations with WebSocket implementations that other people wrote and use.

What belongs here: that both sides understand each other, in both roles, plain and over TLS. What
does not: bad peers (tests/reliability) and the limits of the protocol (tests/autobahn).

The tools are installed by the scripts that tox.ini names; a test whose tool is missing fails.
"""
