"""The one door to the network for tools: whatever a person or a model can aim goes through here."""
