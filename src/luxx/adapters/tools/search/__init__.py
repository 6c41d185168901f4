"""Search engines behind one port, `SearchEngine`: an adapter each."""
