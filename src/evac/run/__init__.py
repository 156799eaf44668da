"""The state machine of one run: a transition table, a fold over events, and what to do next. Pure."""
