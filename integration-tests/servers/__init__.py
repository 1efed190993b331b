"""Real servers, started by the tests on this machine: private folders, keys and ports, and nothing is left."""
