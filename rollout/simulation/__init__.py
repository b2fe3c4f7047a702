"""A spec against synthetic futures and the stored past: the controller's own rules, simulated."""
