"""The deployctl command."""
