"""Targets: profiles as data, and the emitters that write artifacts for them."""
