"""The client's state machine: resources, intents, flows."""
