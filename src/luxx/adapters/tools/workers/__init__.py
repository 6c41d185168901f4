"""Child processes that can be killed, for work that can eat time or memory."""
