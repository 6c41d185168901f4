"""A small real model on this machine: its weights, and llama.cpp as a child process that answers with them."""
