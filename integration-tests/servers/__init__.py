"""Real servers, started by the tests: private folders, keys and ports, and nothing is left."""
