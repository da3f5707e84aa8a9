"""The simulated clinic: consultations written by a seeded generator, for the quickstart and tests."""
